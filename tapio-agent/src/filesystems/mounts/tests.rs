use super::*;

fn found(table: &str) -> Vec<Filesystem> {
    by_device(local(table)).into_values().filter_map(|mounts| filesystem(&mounts)).collect()
}

fn one(table: &str) -> Filesystem {
    let mut all = found(table);
    assert_eq!(all.len(), 1, "{all:#?}");
    all.remove(0)
}

const KUBELET: &str = "/var/lib/kubelet/pods";

#[test]
fn a_file_system_is_one_whatever_is_mounted_of_it() {
    let table = "\
21 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw,errors=remount-ro
22 21 254:1 /var/lib/x /mnt/bind ro,relatime shared:2 - ext4 /dev/vda1 rw,errors=remount-ro
23 21 0:5 / /dev rw - devtmpfs devtmpfs rw
24 21 0:40 / /mnt/nfs rw - nfs4 server:/ rw
25 21 0:41 / /run/containerd/x rw - overlay overlay rw,lowerdir=/a
";
    let root = one(table);
    assert_eq!((root.mount_point.as_str(), root.kind.as_str()), ("/", "ext4"));
    assert_eq!(
        (root.volume, root.read_only),
        (None, None),
        "a read-only bind mount is no read-only file system"
    );
}

#[test]
fn a_volume_is_its_pods_wherever_else_it_is_mounted() {
    let csi = format!("{KUBELET}/u-1/volumes/kubernetes.io~csi/pvc-7/mount");
    let table = format!(
        "\
30 21 259:3 / /var/lib/kubelet/plugins/kubernetes.io/csi/ebs/ab/globalmount rw - xfs /dev/nvme1n1 rw
31 21 259:3 / {csi} rw - xfs /dev/nvme1n1 rw
32 21 259:3 /app {KUBELET}/u-1/volume-subpaths/pvc-7/app/0 rw - xfs /dev/nvme1n1 rw
"
    );
    let volume = one(&table);
    assert_eq!((&volume.mount_point, volume.volume), (&csi, Volume::of_path(&csi)));
    let shared = format!("{table}33 21 259:3 / {} rw - xfs /dev/nvme1n1 rw\n", csi.replace("u-1", "u-2"));
    let of = one(&shared).volume;
    assert_eq!(of, Some(Volume { name: "pvc-7".to_owned(), pod_uid: None }), "two pods share it");
}

#[test]
fn a_volume_that_is_a_directory_of_the_nodes_disk_is_the_nodes() {
    let table = format!(
        "\
21 1 254:1 / / rw - ext4 /dev/vda1 rw
31 21 254:1 /srv/x {KUBELET}/u-1/volumes/kubernetes.io~local-volume/pv-1 rw - ext4 /dev/vda1 rw
"
    );
    assert_eq!(one(&table).volume, None);
}

#[test]
fn what_a_container_has_of_its_hosts_disk_is_not_judged() {
    assert_eq!(found("5 1 254:1 /var/lib/docker/x/hosts /etc/hosts rw - ext4 /dev/vda1 rw\n"), []);
    let secret =
        format!("6 1 0:50 / {KUBELET}/u-1/volumes/kubernetes.io~projected/token rw - tmpfs tmpfs rw\n");
    assert_eq!(found(&secret), [], "and nobody fills a Secret");
}

#[test]
fn subvolumes_are_mounted_for_themselves() {
    let table = "\
21 1 0:30 /@ / rw - btrfs /dev/vda2 rw,subvolid=256
22 21 0:30 /@home /home rw - btrfs /dev/vda2 rw,subvolid=257
";
    assert_eq!(one(table).mount_point, "/");
}

#[test]
fn a_file_system_says_itself_that_it_takes_no_writes() {
    let of = |options: &str| one(&format!("21 1 254:1 / / rw - ext4 /dev/vda1 {options}\n")).read_only;
    assert_eq!(of("rw,errors=remount-ro"), None);
    assert_eq!(of("ro,errors=remount-ro"), Some(ReadOnly::Mounted));
    assert_eq!(of("rw,errors=remount-ro,emergency_ro"), Some(ReadOnly::Emergency));
    assert_eq!(of("ro,shutdown"), Some(ReadOnly::Shutdown));
}

#[test]
fn blanks_in_paths_are_escaped() {
    let table = r"21 1 0:30 / /mnt/a\040b\134c rw - tmpfs my\040disk rw";
    let mount = local(table).next().unwrap();
    assert_eq!((mount.point.as_str(), mount.source.as_str()), (r"/mnt/a b\c", "my disk"));
    assert_eq!(unescape(r"\x\9"), r"\x\9");
}

#[test]
fn lines_that_are_none_are_passed_over() {
    for line in
        ["", "21 1", "21 1 254:1 / / rw - ext4", "x 1 254:1 / / rw - ext4 a rw", "2 1 254 / / rw - ext4 a rw"]
    {
        assert_eq!(local(line).count(), 0, "{line}");
    }
}
