use super::{super::filesystem::Space, *};
use crate::observer::Volume;

const GIB: u64 = 1 << 30;
const SECOND: u64 = 1_000_000_000;

fn amount(total: u64, available: u64) -> Amount {
    Amount { used: total - available, available }
}

/// A disk of 100 GiB and a million inodes.
fn disk(available: u64, inodes: u64) -> Filesystem {
    let space = Space { bytes: amount(100 * GIB, available), inodes: Some(amount(1_000_000, inodes)) };
    Filesystem {
        device: "vda1".to_owned(),
        kind: "ext4".to_owned(),
        mount_point: "/".to_owned(),
        space: Some(space),
        ..Filesystem::default()
    }
}

/// Judges one scan after another, ten seconds apart.
#[derive(Default)]
struct Scans(Filesystems, u64);

impl Scans {
    fn all(&mut self, mounted: Vec<Filesystem>) -> Vec<Anomaly> {
        self.1 += 10 * SECOND;
        let header = Header { time_ns: self.1, ..bytemuck::Zeroable::zeroed() };
        let mut out = Vec::new();
        self.0.judge(&header, mounted, &settings::Filesystems::default(), &mut out);
        out
    }

    /// What is reported of one file system: state and resource, or the mount option.
    fn of(&mut self, mounted: Filesystem) -> Option<String> {
        let mut found = self.all(vec![mounted]);
        assert!(found.len() < 2, "one fault is one anomaly: {found:?}");
        let Anomaly { data, .. } = found.pop()?;
        let text = |key| data.text(key).map(ToOwned::to_owned);
        Some(
            text("option").unwrap_or_else(|| [text("state"), text("resource")].map(Option::unwrap).join(" ")),
        )
    }
}

fn some(text: &str) -> Option<String> {
    Some(text.to_owned())
}

#[test]
fn a_disk_that_fills_is_reported_when_little_is_left_and_when_nothing_is() {
    let mut scans = Scans::default();
    for available in [50 * GIB, 15 * GIB, 6 * GIB] {
        assert_eq!(scans.of(disk(available, 900_000)), None, "{available}");
    }
    assert_eq!(scans.of(disk(4 * GIB, 900_000)), some("nearly_full bytes"));
    for available in [3 * GIB, GIB, 4 * GIB, 6 * GIB, 4 * GIB] {
        assert_eq!(scans.of(disk(available, 900_000)), None, "it was reported: {available}");
    }
    assert_eq!(scans.of(disk(0, 900_000)), some("full bytes"));
    for available in [GIB, 0, 4 * GIB, 0] {
        assert_eq!(scans.of(disk(available, 900_000)), None, "writers at the limit come and go: {available}");
    }
    assert_eq!(scans.of(disk(20 * GIB, 900_000)), None);
    assert_eq!(scans.of(disk(4 * GIB, 900_000)), some("nearly_full bytes"), "it is another fault");
}

#[test]
fn a_disk_that_is_full_at_once_is_reported_once() {
    let mut scans = Scans::default();
    assert_eq!(scans.of(disk(50 * GIB, 900_000)), None);
    assert_eq!(scans.of(disk(0, 900_000)), some("full bytes"));
    assert_eq!(scans.of(disk(0, 900_000)), None);
}

#[test]
fn a_large_disk_has_room_for_long() {
    let mut scans = Scans::default();
    let large = |available| {
        let space = Space { bytes: amount(10_000 * GIB, available), inodes: None };
        Filesystem { space: Some(space), ..disk(0, 0) }
    };
    assert_eq!(scans.of(large(300 * GIB)), None, "3 % of it");
    assert_eq!(scans.of(large(19 * GIB)), some("nearly_full bytes"));
}

#[test]
fn inodes_run_out_as_well() {
    let mut scans = Scans::default();
    assert_eq!(scans.of(disk(50 * GIB, 40_000)), some("nearly_full inodes"));
    assert_eq!(scans.of(disk(50 * GIB, 0)), some("full inodes"));
    assert_eq!(scans.of(disk(50 * GIB, 0)), None);
    let mut xfs = Scans::default();
    assert_eq!(xfs.of(disk(0, 0)), some("full bytes"), "XFS has no inodes where it has no bytes");
    assert_eq!(xfs.of(disk(0, 0)), None);
}

#[test]
fn what_is_not_known_or_has_no_size_is_not_judged() {
    let mut scans = Scans::default();
    assert_eq!(scans.of(Filesystem { space: None, ..disk(0, 0) }), None);
    let nothing = Space { bytes: amount(0, 0), inodes: None };
    assert_eq!(scans.of(Filesystem { space: Some(nothing), ..disk(0, 0) }), None);
    let read_only = Filesystem { read_only: Some(ReadOnly::Mounted), ..disk(0, 0) };
    assert_eq!(Scans::default().of(read_only), None, "an image is always full");
}

#[test]
fn growth_says_when_nothing_will_be_left() {
    let mut scans = Scans::default();
    assert_eq!(scans.of(disk(7 * GIB, 900_000)), None);
    for _ in 0..5 {
        assert_eq!(scans.of(disk(6 * GIB, 900_000)), None);
    }
    // 3 GiB in a minute.
    let reported = scans.all(vec![disk(4 * GIB, 900_000)]).remove(0);
    assert_eq!(reported.data.number("growth_bytes_per_minute"), Some(3 * GIB));
    assert_eq!(reported.data.number("left_seconds"), Some(80));
    let first = Scans::default().all(vec![disk(4 * GIB, 900_000)]).remove(0);
    assert_eq!(first.data.number("left_seconds"), None, "who has seen it once knows no growth");
    let mut emptied = Scans::default();
    assert_eq!(emptied.of(disk(6 * GIB, 900_000)), None);
    assert_eq!(emptied.of(disk(50 * GIB, 900_000)), None);
    let again = emptied.all(vec![disk(2 * GIB, 900_000)]).remove(0);
    assert_eq!(again.data.number("growth_bytes_per_minute"), Some(6 * 48 * GIB), "since it was emptied");
}

#[test]
fn a_file_system_that_stopped_taking_writes_is_reported_once() {
    let with = |read_only| Filesystem { read_only, ..disk(50 * GIB, 900_000) };
    let mut scans = Scans::default();
    assert_eq!(scans.of(with(None)), None);
    assert_eq!(scans.of(with(Some(ReadOnly::Mounted))), some("ro"));
    assert_eq!(scans.of(with(Some(ReadOnly::Shutdown))), None, "it is the same fault");
    assert_eq!(scans.of(with(None)), None);
    assert_eq!(scans.of(with(Some(ReadOnly::Emergency))), some("emergency_ro"), "it is another one");
    let mut image = Scans::default();
    for read_only in [Some(ReadOnly::Mounted), None, Some(ReadOnly::Mounted)] {
        assert_eq!(image.of(with(read_only)), None, "who updates an image makes it writable for a moment");
    }
    assert_eq!(
        Scans::default().of(with(Some(ReadOnly::Emergency))),
        some("emergency_ro"),
        "nobody wants that"
    );
}

#[test]
fn the_next_agent_does_not_repeat_it() {
    let read_only = Filesystem {
        device: "vdb".to_owned(),
        read_only: Some(ReadOnly::Mounted),
        ..disk(50 * GIB, 900_000)
    };
    let mut scans = Scans::default();
    scans.all(vec![disk(50 * GIB, 900_000), Filesystem { read_only: None, ..read_only.clone() }]);
    assert_eq!(scans.all(vec![disk(0, 900_000), read_only.clone()]).len(), 2);
    let mut next = Scans::default();
    next.0.restore(&scans.0.snapshot().unwrap()).unwrap();
    assert_eq!(next.all(vec![disk(0, 900_000), read_only]).len(), 0);
    assert!(next.0.restore(b"{").is_err());
}

#[test]
fn file_systems_are_not_repeats_of_each_other() {
    let of = |device: &str, mount_point: &str, available| {
        let (device, mount_point) = (device.to_owned(), mount_point.to_owned());
        let other = Filesystem {
            device,
            volume: Volume::of_path(&mount_point),
            mount_point,
            ..disk(available, 900_000)
        };
        Scans::default().all(vec![other]).remove(0)
    };
    let volume = "/var/lib/kubelet/pods/u/volumes/kubernetes.io~csi/pvc-7/mount";
    let all = [of("vda1", "/", 0), of("vda1", "/", GIB), of("vdb", "/", 0), of("vdb", volume, 0)];
    let details: Vec<_> = all.iter().map(|anomaly| anomaly.detail).collect();
    assert!((1..4).all(|nth| !details[..nth].contains(&details[nth])), "{details:?}");
    assert_eq!(all[3].volume, Volume::of_path(volume));
    let mut two = Scans::default();
    two.all(vec![disk(0, 900_000)]);
    two.all(vec![]);
    assert_eq!(two.of(disk(0, 900_000)), some("full bytes"), "it was unmounted, and is mounted again");
}
