use tapio_occurrence::samples::occurrence as sample;
use tempfile::{TempDir, tempdir};

use super::*;

const CAP_BYTES: u64 = 8 << 20;

fn at(directory: &TempDir) -> Disk {
    Disk::new(directory.path().join("spool/sink.redb"), CAP_BYTES)
}

fn open(directory: &TempDir) -> Disk {
    let mut disk = at(directory);
    assert!(disk.open().unwrap().unwrap().first);
    disk
}

fn records(count: usize) -> Vec<Vec<u8>> {
    vec![record::encode(&sample()); count]
}

fn keys(read: &[Read]) -> Vec<u64> {
    read.iter().map(|(key, _)| *key).collect()
}

#[test]
fn what_is_held_is_not_read_again_and_what_is_removed_is_gone() {
    let directory = tempdir().unwrap();
    let mut disk = open(&directory);
    assert_eq!(disk.append(&records(10)).unwrap().first, 0);
    disk.hold(0);
    assert_eq!(keys(&disk.read(3).unwrap()), [1, 2, 3]);
    assert_eq!(keys(&disk.read(3).unwrap()), [4, 5, 6]);
    assert_eq!((disk.unread(), disk.stock().records), (3, 10));
    disk.remove(&[0, 2, 4]).unwrap();
    assert_eq!((disk.unread(), disk.stock().records), (3, 7));
    disk.close();

    let mut again = open(&directory);
    assert_eq!(again.stock().records, 7);
    assert_eq!(again.append(&records(1)).unwrap().first, 10, "numbers only grow");
    assert_eq!(keys(&again.read(100).unwrap()), [1, 3, 5, 6, 7, 8, 9, 10]);
}

#[test]
fn the_oldest_that_are_not_held_make_room() {
    let directory = tempdir().unwrap();
    let mut disk = open(&directory);
    disk.append(&records(2)).unwrap();
    assert_eq!(keys(&disk.read(1).unwrap()), [0]);
    let mut evicted = 0;
    while evicted < 100 {
        evicted += disk.append(&records(512)).unwrap().evicted;
        assert!(disk.stock().bytes <= CAP_BYTES / 4 * 3);
    }
    assert_eq!(keys(&disk.read(1).unwrap()), [evicted + 1], "all but the one that is held");
    disk.close();
    let stock = disk.stock();
    disk.open().unwrap();
    assert_eq!(disk.stock(), stock, "what is said is what is there");
}

#[test]
fn what_a_failed_change_has_left_is_taken_out() {
    let directory = tempdir().unwrap();
    let mut disk = open(&directory);
    disk.append(&records(10)).unwrap();
    assert_eq!(keys(&disk.read(2).unwrap()), [0, 1]);
    disk.close();
    // Pretend that a transaction reported as failed had written the last four.
    disk.next = Some(6);
    let opened = disk.open().unwrap().unwrap();
    assert!(!opened.first && opened.missing.is_empty());
    assert_eq!((disk.unread(), disk.append(&records(1)).unwrap().first), (4, 6));
}

#[test]
fn a_file_that_was_removed_is_missed() {
    let directory = tempdir().unwrap();
    let mut disk = open(&directory);
    disk.append(&records(10)).unwrap();
    disk.read(2).unwrap();
    disk.close();
    fs::remove_file(disk.path()).unwrap();
    let opened = disk.open().unwrap().unwrap();
    assert_eq!((disk.unread(), opened.missing), (0, BTreeSet::from([0, 1])));
}

#[test]
fn a_record_of_another_form_is_distinguished() {
    let directory = tempdir().unwrap();
    let mut disk = open(&directory);
    disk.append(&[b"\xff nonsense".to_vec(), record::encode(&sample())]).unwrap();
    let read = disk.read(2).unwrap();
    assert!(matches!(&read[..], [(0, Err(_)), (1, Ok(_))]), "{read:?}");
}

#[test]
fn an_emptied_file_is_made_small() {
    let directory = tempdir().unwrap();
    let mut disk = open(&directory);
    for _ in 0..12 {
        disk.append(&records(512)).unwrap();
    }
    let large = fs::metadata(disk.path()).unwrap().len();
    let all = keys(&disk.read(usize::MAX).unwrap());
    disk.remove(&all).unwrap();
    let small = fs::metadata(disk.path()).unwrap().len();
    assert!(large > SMALL_BYTES && small < 1 << 20, "{large} to {small}");
}

#[test]
fn the_file_keeps_to_its_cap_whatever_the_records() {
    use std::os::unix::fs::MetadataExt as _;
    for bytes in [100, 300, 900, 1500, 2100, 3000, 6000, 20_000] {
        let directory = tempdir().unwrap();
        let mut disk = open(&directory);
        let change = vec![vec![7; bytes]; (CHANGE_BYTES as usize / bytes + 1).min(1024)];
        let (mut most, mut written) = (0, 0);
        while written < 3 * CAP_BYTES {
            disk.append(&change).unwrap();
            written += (change.len() * bytes) as u64;
            most = most.max(fs::metadata(disk.path()).unwrap().blocks() * 512);
        }
        println!("{bytes}: {most} of {CAP_BYTES}, {} records", disk.stock().records);
        assert!(most <= CAP_BYTES, "records of {bytes}: {most} bytes on disk");
    }
}
