//! Malformed files and unusual cgroup trees. A number that is not certain counts as unknown.

use super::*;

/// Content that no single-number file of the kernel has.
const GARBAGE: [&str; 8] =
    ["", "\n", "max max", "-5\n", "\u{0}\u{1}", "1e9\n", "0x10\n", "99999999999999999999\n"];
const GROUP: &str = "system.slice/a.service";

/// The sample of a cgroup with this text in one of its files.
async fn with(host: &Host, file: &str, text: &str) -> Sample {
    host.two(GROUP);
    host.write(&format!("cgroup/{GROUP}/{file}"), text);
    scan(&mut host.reader()).await[&host.ino(&format!("cgroup/{GROUP}"))]
}

#[tokio::test(start_paused = true)]
async fn a_limit_that_is_garbage_is_no_limit_and_not_none() {
    let host = Host::new();
    for garbage in GARBAGE {
        let sample = with(&host, "memory.max", garbage).await;
        assert_eq!((sample.limit_bytes, sample.held_bytes), (UNKNOWN, UNKNOWN), "{garbage:?}");
        assert_eq!(sample.periods, 20, "the others are read");
        let sample = with(&host, "cpu.max", garbage).await;
        assert_eq!((sample.quota_us, sample.period_us), (UNKNOWN, UNKNOWN), "{garbage:?}");
        assert_eq!(sample.limit_bytes, 128 * MIB, "the others are read");
    }
    let none = with(&host, "memory.max", "max\n").await;
    assert_eq!(none.limit_bytes, UNLIMITED);
}

#[tokio::test(start_paused = true)]
async fn usage_that_is_garbage_or_without_limit_is_unknown() {
    let host = Host::new();
    for garbage in GARBAGE.into_iter().chain(["max\n"]) {
        let sample = with(&host, "memory.current", garbage).await;
        assert_eq!((sample.usage_bytes, sample.held_bytes), (UNKNOWN, UNKNOWN), "{garbage:?}");
        assert_eq!(sample.limit_bytes, 128 * MIB);
    }
    // The caches are larger than the usage, because they were read a moment later.
    let sample = with(&host, "memory.stat", "inactive_file 999999999\nactive_file 1\n").await;
    assert_eq!(sample.held_bytes, 0);
    let most = u64::MAX;
    let sample = with(&host, "memory.stat", &format!("inactive_file {most}\nactive_file {most}\n")).await;
    assert_eq!(sample.held_bytes, UNKNOWN, "a sum that no number holds");
}

#[tokio::test(start_paused = true)]
async fn what_version_1_writes_that_is_garbage_is_unknown() {
    for garbage in GARBAGE.into_iter().chain(["max\n"]) {
        let host = Host::new();
        let group = format!("docker/{ID}");
        host.one(&group);
        for (controller, file) in [
            ("memory", "memory.limit_in_bytes"),
            ("cpu,cpuacct", "cpu.cfs_quota_us"),
            ("cpu,cpuacct", "cpuacct.usage"),
        ] {
            host.write(&format!("cgroup/{controller}/{group}/{file}"), garbage);
        }
        let seen = scan(&mut host.reader()).await;
        // Nothing is known of it, as of a cgroup that has vanished.
        assert_eq!(seen.len(), 1, "{garbage:?}: {seen:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn of_the_node_what_is_garbage_is_unknown() {
    for garbage in GARBAGE {
        let host = Host::new();
        host.two(GROUP);
        let meminfo =
            format!("MemTotal: {garbage} kB\nMemAvailable: 512 kB\nSwapTotal:\nSwapFree: {garbage}\n");
        host.write("proc/meminfo", &meminfo);
        host.write("proc/pressure/memory", &format!("some avg10={garbage} total={garbage}"));
        let node = scan(&mut host.reader()).await[&WHOLE_NODE];
        let values = [node.held_bytes, node.limit_bytes, node.swap_bytes, node.swap_limit_bytes];
        assert_eq!(values, [UNKNOWN; 4], "{garbage:?}");
        assert_eq!((node.memory_some_us, node.io_some_us), (UNKNOWN, 2_000), "{garbage:?}");
    }
    let host = Host::new();
    host.write("proc/meminfo", "MemTotal: 18446744073709551615 kB\nMemAvailable: 1 kB\n");
    assert_eq!(scan(&mut host.reader()).await[&WHOLE_NODE].limit_bytes, UNKNOWN, "too many bytes");
    host.write("proc/meminfo", "MemTotal: 1 kB\nMemAvailable: 2 kB\n");
    assert_eq!(scan(&mut host.reader()).await[&WHOLE_NODE].held_bytes, UNKNOWN, "more than there is");
}

#[tokio::test(start_paused = true)]
async fn a_file_without_end_is_not_believed() {
    let host = Host::new();
    // The last digits of the second number are cut off, because the reader's buffer ends there.
    for length in 16_300..16_500 {
        let first = "inactive_file 1\nslab_reclaimable 0\n";
        let text = format!("{first}{}\nactive_file 20971520\n", "x".repeat(length - first.len()));
        let sample = with(&host, "memory.stat", &text).await;
        let whole = 100 * MIB - 20 * MIB - 1;
        assert!([whole, UNKNOWN].contains(&sample.held_bytes), "{length}: {}", sample.held_bytes);
    }
}

/// A directory in place of a file: it exists, but nobody can read it.
#[tokio::test(start_paused = true)]
async fn a_file_that_cannot_be_read_is_unknown_and_the_others_are_not() {
    let host = Host::new();
    host.two(GROUP);
    for file in ["memory.current", "cpu.stat", "memory.pressure"] {
        let path = host.path(&format!("cgroup/{GROUP}/{file}"));
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
    }
    let seen = scan(&mut host.reader()).await;
    let sample = seen[&host.ino(&format!("cgroup/{GROUP}"))];
    let values = [sample.usage_bytes, sample.held_bytes, sample.periods, sample.memory_some_us];
    assert_eq!(values, [UNKNOWN; 4]);
    assert_eq!((sample.limit_bytes, sample.quota_us, sample.io_some_us), (128 * MIB, 50_000, 80));
}

/// Cgroups vanish between the walk and the sample.
#[tokio::test(start_paused = true)]
async fn groups_that_vanish_during_a_pass_are_left_out() {
    let host = Host::new();
    (0..200).for_each(|at| host.two(&format!("system.slice/s{at}.service")));
    let mut reader = host.reader();
    let mut seen = 0;
    loop {
        reader.scan().await;
        // One in three vanishes, both of those already sampled and of the others.
        for at in (0..200).step_by(3) {
            let _ = fs::remove_dir_all(host.path(&format!("cgroup/system.slice/s{at}.service")));
        }
        let mut is_over = false;
        while let Some(record) = reader.next() {
            let sample: Sample = bytemuck::pod_read_unaligned(record);
            is_over = sample.header.cgroup_id == WHOLE_NODE;
            seen += usize::from(!is_over);
            assert!(is_over || sample.usage_bytes == 100 * MIB, "{sample:?}");
        }
        if is_over {
            break;
        }
    }
    assert_eq!(seen, 133);
}
