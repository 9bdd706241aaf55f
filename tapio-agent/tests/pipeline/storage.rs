//! The storage observer: from scans and events to the lines that leave the node.

use bytemuck::Zeroable as _;
use serde_json::{Value, json};
use tapio_agent::{
    enrich::pods::Pod,
    observer::{
        Volume,
        storage::{
            Storage,
            filesystem::{Amount, Filesystem, ReadOnly, Space, record},
        },
    },
};
use tapio_common::storage::{StorageEvent, kind};

use super::{SECOND, conforms, line::Line};

const GIB: u64 = 1 << 30;
const UID: &str = "4f93bb12-5e82-afe0-0791-1dab3df5704b";

fn volume() -> Filesystem {
    let mount_point = format!("/var/lib/kubelet/pods/{UID}/volumes/kubernetes.io~csi/pvc-7/mount");
    Filesystem {
        device: "vg-data".to_owned(),
        disks: vec![7],
        kind: "ext4".to_owned(),
        volume: Volume::of_path(&mount_point),
        mount_point,
        ..Filesystem::default()
    }
}

fn with(available: u64, of: Filesystem) -> Filesystem {
    let bytes = Amount { used: 10 * GIB - available, available };
    Filesystem { space: Some(Space { bytes, inodes: Some(Amount { used: 50, available: 950 }) }), ..of }
}

fn node() -> Filesystem {
    let (device, mount_point) = ("vda1".to_owned(), "/var/lib".to_owned());
    Filesystem { device, mount_point, disks: Vec::new(), volume: None, ..volume() }
}

fn pod(claims: &[&str]) -> Pod {
    let volumes =
        claims.iter().map(|claim| json!({ "name": claim, "persistentVolumeClaim": { "claimName": claim } }));
    let pod = json!({
        "metadata": { "uid": UID, "namespace": "shop", "name": "db-0" },
        "spec": { "containers": [], "volumes": volumes.collect::<Vec<_>>() },
    });
    Pod::read(&serde_json::from_value(pod).unwrap()).unwrap()
}

/// Scans ten seconds apart, of file systems of which the pods are known. Returns what the last one reports.
async fn reported(line: &mut Line, scans: &[Filesystem]) -> Value {
    for (nth, filesystem) in (1..).zip(scans) {
        line.record(&record(nth * 10 * SECOND, std::slice::from_ref(filesystem)).unwrap());
    }
    let mut all = line.occurrences().await;
    all.iter().for_each(conforms);
    assert_eq!(line.malformed(), 0);
    all.pop().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn messages() {
    let mut line = Line::of::<Storage>();
    let nearly = reported(&mut line, &[with(9 * GIB / 10, node()), with(GIB / 4, node())]).await;
    assert_eq!(
        nearly["message"],
        "this node: /var/lib on vda1 is nearly full: 256 MiB of 10 GiB left, grows 3.9 GiB a minute: full in about 3 seconds"
    );
    assert_eq!(nearly.get("workload"), None);
    let full = reported(&mut line, &[with(0, node())]).await;
    assert_eq!(
        (&full["message"], &full["severity"]),
        (&"this node: /var/lib on vda1 is full: 0 B of 10 GiB left".into(), &"error".into())
    );
    let mut inodes = with(5 * GIB, node());
    inodes.space.as_mut().unwrap().inodes = Some(Amount { used: 990, available: 10 });
    let inodes = reported(&mut Line::of::<Storage>(), &[inodes]).await;
    assert_eq!(inodes["message"], "this node: /var/lib on vda1 has few inodes left: 10 of 1000");
    let read_only = |read_only| Filesystem { read_only, ..node() };
    for (option, message) in [
        (ReadOnly::Mounted, "this node: /var/lib on vda1 became read-only (ext4)"),
        (ReadOnly::Emergency, "this node: /var/lib on vda1 takes no more writes after an error (ext4)"),
        (ReadOnly::Shutdown, "this node: /var/lib on vda1 was shut down (ext4)"),
    ] {
        let scans = [read_only(None), read_only(Some(option))];
        assert_eq!(reported(&mut Line::of::<Storage>(), &scans).await["message"], message);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_is_its_pods() {
    let mut line = Line::of::<Storage>().knowing(vec![pod(&["data-db-0"])]);
    let full = reported(&mut line, &[with(0, volume())]).await;
    assert_eq!(full["workload"]["pod"], "db-0");
    assert_eq!((&full["data"]["volume"], &full["data"]["claim"]), (&"pvc-7".into(), &"data-db-0".into()));
    let message = full["message"].as_str().unwrap();
    assert!(
        message.ends_with("the volume of claim data-db-0 on vg-data is full: 0 B of 10 GiB left"),
        "{message}"
    );
    let two =
        reported(&mut Line::of::<Storage>().knowing(vec![pod(&["a", "b"])]), &[with(0, volume())]).await;
    assert_eq!(
        (&two["workload"]["pod"], two["data"].get("claim")),
        (&"db-0".into(), None),
        "it may be either"
    );
    let unknown = reported(&mut Line::of::<Storage>(), &[with(0, volume())]).await;
    assert_eq!((&unknown["workload"]["pod_uid"], unknown["workload"].get("pod")), (&UID.into(), None));
    assert_eq!(unknown["message"], format!("pod {UID}: volume pvc-7 on vg-data is full: 0 B of 10 GiB left"));
    assert_eq!(line.metric("tapio_unattributed_total", &[]), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_fails_has_the_volume_that_is_on_it() {
    let mut line = Line::of::<Storage>().knowing(vec![pod(&["data-db-0"])]);
    line.record(&record(SECOND, &[with(5 * GIB, volume())]).unwrap());
    for (kind, errno) in [(kind::IO_ERROR, 5), (kind::IO_SLOW, 0)] {
        let mut event =
            StorageEvent { kind, errno, device: 7, value_us: 3_000_000, ..StorageEvent::zeroed() };
        event.header.time_ns = 2 * SECOND;
        event.name[0] = u64::from_le_bytes(*b"nvme0n1\0");
        line.record(bytemuck::bytes_of(&event));
        let [found] = line.occurrences().await.try_into().unwrap();
        conforms(&found);
        assert_eq!(found["workload"]["pod"], "db-0", "the journal's requests have no owner of their own");
        for (key, value) in [("device", "nvme0n1"), ("filesystem_device", "vg-data"), ("claim", "data-db-0")]
        {
            assert_eq!(found["data"][key], value, "{found:#}");
        }
    }
    assert_eq!(line.metric("tapio_unattributed_total", &[]), 0);
}
