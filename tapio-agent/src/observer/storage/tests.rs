use bytemuck::Zeroable as _;
use tapio_common::{majority::Majority, storage::Load};

use super::{filesystem::Filesystem, *};
use crate::observer::Volume;

fn event(kind: u32) -> StorageEvent {
    let mut event = StorageEvent { kind, value_us: 100_000, ..StorageEvent::zeroed() };
    event.name[0] = u64::from_le_bytes(*b"vda\0\0\0\0\0");
    event
}

fn storage() -> Storage {
    Storage::new(&Settings::default())
}

fn judged(event: &StorageEvent) -> Anomaly {
    let mut out = Vec::new();
    storage().observe(bytemuck::bytes_of(event), &mut out).unwrap();
    out.remove(0)
}

#[test]
fn waiting_for_the_device_tells_a_full_queue_from_a_slow_device() {
    for kind in [kind::IO_SLOW, kind::LATENCY_SHIFT] {
        let of_device = judged(&StorageEvent { waited_us: 10_000, ..event(kind) });
        assert_eq!(of_device.kind.name, "storage.io_slow");
        let of_queue = judged(&StorageEvent { waited_us: 90_000, ..event(kind) });
        assert_eq!(of_queue.kind.name, "storage.queue_saturated");
        assert_eq!(of_queue.data.text("device"), Some("vda"));
        assert_eq!(of_queue.baseline.is_some(), kind == kind::LATENCY_SHIFT);
    }
}

#[test]
fn an_error_names_device_operation_and_sector() {
    let failed = judged(&StorageEvent {
        operation: operation::WRITE,
        sector: 8,
        errno: 28,
        bytes: 512,
        ..event(kind::IO_ERROR)
    });
    assert_eq!((failed.kind.name, failed.cgroup_id), ("storage.io_error", WHOLE_NODE));
    let of = |cgroup_id| {
        let mut event = event(kind::IO_ERROR);
        event.header.cgroup_id = cgroup_id;
        judged(&event).cgroup_id
    };
    assert_eq!((of(1), of(77)), (WHOLE_NODE, 77), "the root of all groups is nobody in particular");
    assert_eq!(failed.data.text("operation"), Some("write"));
    assert_eq!((failed.data.text("error"), failed.data.number("sector")), (Some("ENOSPC"), Some(8)));
}

#[test]
fn who_fills_the_queue_is_named_only_if_it_is_most_of_the_load() {
    let mut busy = event(kind::LATENCY_SHIFT);
    let mut bytes = Majority { cgroup_id: 9, votes: 90, own: 95, all: 100 };
    busy.load = Load { bytes, since_ns: 0 };
    let reported = judged(&busy);
    assert_eq!(reported.noisy_neighbour, Some(9));
    assert_eq!(reported.data.number("noisy_neighbour_percent"), Some(95));
    bytes.own = 60;
    busy.load = Load { bytes, since_ns: 0 };
    assert_eq!(judged(&busy).noisy_neighbour, None);
}

#[test]
fn devices_and_operations_do_not_share_repeats() {
    let detail =
        |device, operation| judged(&StorageEvent { device, operation, ..event(kind::IO_SLOW) }).detail;
    let all = [detail(7 << 32, 0), detail(7 << 32, 1), detail((7 << 32) | 1, 0), detail(8 << 32, 0)];
    assert!((1..4).all(|nth| !all[..nth].contains(&all[nth])), "{all:?}");
}

#[test]
fn a_device_with_one_file_system_has_its_volume() {
    let of = |mount_point: &str, device: &str| Filesystem {
        device: device.to_owned(),
        disks: vec![7],
        mount_point: mount_point.to_owned(),
        volume: Volume::of_path(mount_point),
        ..Filesystem::default()
    };
    let volume = of("/var/lib/kubelet/pods/u/volumes/kubernetes.io~csi/pvc-7/mount", "vg-data");
    let after = |mounted: &[Filesystem]| {
        let (mut storage, mut out) = (storage(), Vec::new());
        storage.observe(&filesystem::record(1, mounted).unwrap(), &mut out).unwrap();
        assert!(out.is_empty());
        storage
            .observe(bytemuck::bytes_of(&StorageEvent { device: 7, ..event(kind::IO_SLOW) }), &mut out)
            .unwrap();
        out.remove(0)
    };
    let slow = after(std::slice::from_ref(&volume));
    assert_eq!((slow.volume.as_ref(), slow.cgroup_id), (volume.volume.as_ref(), WHOLE_NODE));
    assert_eq!(slow.data.text("mount_point"), Some(&*volume.mount_point));
    assert_eq!(slow.data.text("filesystem_device"), Some("vg-data"));
    let unclear = after(&[volume, of("/", "vda1")]);
    assert_eq!((unclear.volume, unclear.data.text("mount_point")), (None, None), "it may be either");
}

#[test]
fn records_that_are_no_events_are_refused() {
    assert_eq!(storage().observe(&[0; 3], &mut Vec::new()), Err(Malformed::Size(3)));
    let mut cut = filesystem::record(1, &[]).unwrap();
    cut.pop();
    assert_eq!(storage().observe(&cut, &mut Vec::new()), Err(Malformed::Size(cut.len())));
    let unknown = storage().observe(bytemuck::bytes_of(&event(99)), &mut Vec::new());
    assert_eq!(unknown, Err(Malformed::Kind(99)));
}
