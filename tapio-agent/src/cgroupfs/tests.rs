use std::{
    collections::HashMap,
    ffi::OsStr,
    fs,
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
};

use tapio_common::{
    CGROUP_V1, WHOLE_NODE,
    node::{Ancestor, SERVICES, UNKNOWN, UNLIMITED},
};
use tempfile::TempDir;

use super::*;

mod hostile;

const ID: &str = "3f4e1a0b9c8d7e6f5a4b3c2d1e0f9a8b7c6d5e4f3a2b1c0d9e8f7a6b5c4d3e2f";
const OTHER: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
const POD: &str = "kubepods/burstable/pod3b1c1f6e-8a40-4ab1-9e37-3a1e5d2f6c11";
const MIB: u64 = 1 << 20;

/// A host made of plain files.
struct Host(TempDir);

impl Host {
    fn new() -> Self {
        let host = Self(tempfile::tempdir().unwrap());
        host.write(
            "proc/meminfo",
            "MemTotal: 2048 kB\nMemFree: 1 kB\nMemAvailable: 512 kB\nSwapTotal: 0 kB\nSwapFree: 0 kB\n",
        );
        host.pressure("proc/pressure/memory", 1_000);
        host.pressure("proc/pressure/io", 2_000);
        host.cpus(1);
        fs::create_dir_all(host.path("cgroup")).unwrap();
        host
    }

    fn path(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn pressure(&self, path: &str, us: u64) {
        let line = format!("avg10=0.00 avg60=0.00 avg300=0.00 total={us}\n");
        self.write(path, &format!("some {line}full {line}"));
    }

    fn cpus(&self, number: u64) {
        let each: String = (0..number).map(|at| format!("cpu{at} 1 2 3\n")).collect();
        self.write("proc/stat", &format!("cpu  1 2 3\n{each}intr 7 0\n"));
    }

    /// Adds a cgroup v2 cgroup with all its files.
    fn two(&self, group: &str) {
        self.write("cgroup/cgroup.controllers", "cpu io memory pids\n");
        let files = [
            ("memory.max", "134217728\n"),
            ("memory.current", "104857600\n"),
            (
                "memory.stat",
                "anon 1\ninactive_file 10485760\nactive_file 20971520\nslab_reclaimable 1048576\n",
            ),
            ("cpu.max", "50000 100000\n"),
            ("cpu.stat", "usage_usec 5\nuser_usec 1\nnr_periods 20\nnr_throttled 3\nthrottled_usec 9\n"),
        ];
        files.iter().for_each(|(name, text)| self.write(&format!("cgroup/{group}/{name}"), text));
        self.pressure(&format!("cgroup/{group}/memory.pressure"), 70);
        self.pressure(&format!("cgroup/{group}/io.pressure"), 80);
    }

    fn one(&self, group: &str) {
        for controller in ["memory", "cpu,cpuacct"] {
            self.write(&format!("cgroup/{controller}/cgroup.procs"), "");
        }
        let files = [
            ("memory", "memory.limit_in_bytes", "134217728\n"),
            ("memory", "memory.usage_in_bytes", "104857600\n"),
            (
                "memory",
                "memory.stat",
                "cache 9\ntotal_inactive_anon 100\ntotal_active_anon 20\ntotal_unevictable 3\n",
            ),
            ("cpu,cpuacct", "cpu.cfs_quota_us", "50000\n"),
            ("cpu,cpuacct", "cpu.cfs_period_us", "100000\n"),
            ("cpu,cpuacct", "cpu.stat", "nr_periods 20\nnr_throttled 3\nthrottled_time 9000\n"),
            ("cpu,cpuacct", "cpuacct.usage", "5000\n"),
        ];
        for (controller, name, text) in files {
            self.write(&format!("cgroup/{controller}/{group}/{name}"), text);
        }
    }

    fn ino(&self, path: &str) -> u64 {
        fs::metadata(self.path(path)).unwrap().ino()
    }

    fn reader(&self) -> Reader {
        self.files(Duration::from_secs(5)).reader()
    }

    fn files(&self, interval: Duration) -> Files {
        Files::open(&self.path("cgroup"), &self.path("proc"), interval, Arc::default())
    }
}

/// Runs one scan, like a pipeline stage.
async fn scan(reader: &mut Reader) -> HashMap<u64, Sample> {
    whole_scan(reader).await.0
}

/// Runs one scan, and returns the cgroups above containers and units as well.
async fn whole_scan(reader: &mut Reader) -> (HashMap<u64, Sample>, Vec<Ancestor>) {
    let (mut seen, mut above) = (HashMap::new(), Vec::new());
    loop {
        reader.scan().await;
        while let Some(record) = reader.next() {
            if let Ok(record) = bytemuck::try_pod_read_unaligned::<Ancestor>(record) {
                above.push(record);
                continue;
            }
            let sample: Sample = bytemuck::pod_read_unaligned(record);
            let id = sample.header.cgroup_id;
            assert!(seen.insert(id, sample).is_none(), "twice");
            if id == WHOLE_NODE {
                return (seen, above);
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn version_2() {
    let host = Host::new();
    host.two(&format!("{POD}/{ID}"));
    let seen = scan(&mut host.reader()).await;
    let sample = seen[&host.ino(&format!("cgroup/{POD}/{ID}"))];
    assert_eq!((sample.usage_bytes, sample.limit_bytes), (100 * MIB, 128 * MIB));
    assert_eq!(sample.held_bytes, (100 - 10 - 20 - 1) * MIB, "no caches");
    assert_eq!((sample.swap_bytes, sample.swap_limit_bytes), (0, 0));
    assert_eq!((sample.memory_some_us, sample.memory_full_us, sample.io_some_us), (70, 70, 80));
    assert_eq!((sample.quota_us, sample.period_us, sample.cpu_us), (50_000, 100_000, 5));
    assert_eq!((sample.periods, sample.throttled, sample.throttled_us), (20, 3, 9));
    let node = seen[&WHOLE_NODE];
    assert_eq!((node.held_bytes, node.limit_bytes), (1536 << 10, 2048 << 10));
    assert_eq!((node.memory_some_us, node.io_full_us), (1_000, 2_000));
    assert_eq!(seen.len(), 2, "neither pods nor slices");
}

#[tokio::test(start_paused = true)]
async fn version_1() {
    let host = Host::new();
    host.one(&format!("docker/{ID}"));
    let seen = scan(&mut host.reader()).await;
    let sample = seen[&(host.ino(&format!("cgroup/memory/docker/{ID}")) | CGROUP_V1)];
    assert_eq!((sample.usage_bytes, sample.limit_bytes, sample.held_bytes), (100 * MIB, 128 * MIB, 123));
    assert_eq!((sample.quota_us, sample.cpu_us, sample.throttled_us), (50_000, 5, 9));
    assert_eq!((sample.periods, sample.throttled), (20, 3));
    assert_eq!(sample.memory_some_us, UNKNOWN);
}

#[tokio::test(start_paused = true)]
async fn beside_version_1_a_container_has_its_id_and_pressure_of_version_2() {
    let host = Host::new();
    host.one(&format!("docker/{ID}"));
    host.one("system.slice/nginx.service");
    host.write("cgroup/unified/cgroup.controllers", "");
    host.pressure(&format!("cgroup/unified/docker/{ID}/memory.pressure"), 70);
    host.pressure("cgroup/unified/system.slice/nginx.service/memory.pressure", 5);
    let seen = scan(&mut host.reader()).await;
    let container = seen[&host.ino(&format!("cgroup/unified/docker/{ID}"))];
    assert_eq!((container.limit_bytes, container.memory_some_us), (128 * MIB, 70));
    let unit = seen[&(host.ino("cgroup/memory/system.slice/nginx.service") | CGROUP_V1)];
    assert_eq!((unit.limit_bytes, unit.memory_some_us), (128 * MIB, 5));
}

/// Limits of a pod and of a slice apply to all cgroups in them.
#[tokio::test(start_paused = true)]
async fn limits_above_are_read_with_who_fills_them() {
    for version in [1, 2] {
        let host = Host::new();
        let (busy, calm) = (format!("{POD}/{ID}"), format!("{POD}/{OTHER}"));
        for group in [POD, &busy, &calm, "a.slice/w.service"] {
            if version == 1 { host.one(group) } else { host.two(group) }
        }
        // The containers have no limits of their own, and the slice has none at all.
        let (memory, cpu) = if version == 1 { ("memory", "cpu,cpuacct") } else { (".", ".") };
        for group in [&busy, &calm] {
            let unlimited = if version == 1 { "9223372036854771712\n" } else { "max\n" };
            let file = if version == 1 { "memory.limit_in_bytes" } else { "memory.max" };
            host.write(&format!("cgroup/{memory}/{group}/{file}"), unlimited);
            let (file, unlimited) =
                if version == 1 { ("cpu.cfs_quota_us", "-1\n") } else { ("cpu.max", "max 100000\n") };
            host.write(&format!("cgroup/{cpu}/{group}/{file}"), unlimited);
        }
        let uses = |group: &str, us: u64| {
            let (file, text) = if version == 1 {
                ("cpuacct.usage", format!("{}\n", us * 1000))
            } else {
                ("cpu.stat", format!("usage_usec {us}\nnr_periods 0\nnr_throttled 0\n"))
            };
            host.write(&format!("cgroup/{cpu}/{group}/{file}"), &text);
        };
        let mut reader = host.reader();
        let (_, above) = whole_scan(&mut reader).await;
        let [pod] = above.try_into().unwrap();
        let id = |group: &str| {
            host.ino(&format!("cgroup/{memory}/{group}")) | if version == 1 { CGROUP_V1 } else { 0 }
        };
        assert_eq!((pod.sample.header.cgroup_id, pod.cpu_cgroup, pod.memory_cgroup), (id(POD), 0, 0));
        assert_eq!(
            (pod.sample.limit_bytes, pod.sample.quota_us, pod.sample.throttled),
            (128 * MIB, 50_000, 3)
        );
        assert_eq!((pod.filled, pod.throttled, pod.sample.cpu_us), (0, 0, 5));
        assert!(pod.name.starts_with(b"pod3b1c1f6e-8a40-4ab1-9e37-3a1e5d2f6c11\0"));

        uses(&calm, 10);
        uses(&busy, 5_000);
        let (seen, above) = whole_scan(&mut reader).await;
        assert_eq!((above[0].cpu_cgroup, above[0].cpu_levels), (id(&busy), 1));
        assert!([id(&busy), id(&calm)].contains(&above[0].memory_cgroup));
        assert_eq!(seen[&id(&busy)].limit_bytes, UNLIMITED);
        assert_ne!(seen[&id(&busy)].held_bytes, UNKNOWN, "it may be who fills the pod");
    }
}

#[tokio::test(start_paused = true)]
async fn limits_further_down_are_known_to_those_above() {
    let host = Host::new();
    let group = format!("{POD}/{ID}");
    for group in ["kubepods", POD, &group] {
        host.two(group);
    }
    let (_, above) = whole_scan(&mut host.reader()).await;
    let ids: Vec<u64> = above.iter().map(|above| above.sample.header.cgroup_id).collect();
    assert_eq!(ids, [host.ino(&format!("cgroup/{POD}")), host.ino("cgroup/kubepods")], "the innermost first");
    assert_eq!(above.iter().map(|above| above.throttled).collect::<Vec<_>>(), [3, 6]);
    // 69 MiB of 128.
    assert_eq!(above.iter().map(|above| above.filled).collect::<Vec<_>>(), [552, 552]);
    assert_eq!(above.iter().map(|above| above.cpu_levels).collect::<Vec<_>>(), [0, 0]);
}

/// Kernels where cgroup v1 memory control is a build option that is off.
#[tokio::test(start_paused = true)]
async fn processors_of_version_1_beside_memory_of_version_2() {
    let host = Host::new();
    let group = format!("{POD}/{ID}");
    host.write("cgroup/cpu,cpuacct/cgroup.procs", "");
    for (name, text) in [
        ("cpu.cfs_quota_us", "50000\n"),
        ("cpu.cfs_period_us", "100000\n"),
        ("cpu.stat", "nr_periods 20\nnr_throttled 3\nthrottled_time 9000\n"),
        ("cpuacct.usage", "5000\n"),
    ] {
        host.write(&format!("cgroup/cpu,cpuacct/{group}/{name}"), text);
    }
    host.write("cgroup/unified/cgroup.controllers", "memory io\n");
    for (name, text) in [("memory.max", "134217728\n"), ("cpu.stat", "usage_usec 7\n")] {
        host.write(&format!("cgroup/unified/{group}/{name}"), text);
    }
    let seen = scan(&mut host.reader()).await;
    let sample = seen[&host.ino(&format!("cgroup/unified/{group}"))];
    assert_eq!((sample.limit_bytes, sample.quota_us, sample.cpu_us), (128 * MIB, 50_000, 5));
    assert_eq!((sample.periods, sample.throttled, sample.throttled_us), (20, 3, 9));
    // The unified hierarchy has a cgroup that cgroup v1 does not have.
    host.write("cgroup/unified/system.slice/a.service/cpu.stat", "usage_usec 7\n");
    let seen = scan(&mut host.reader()).await;
    let unit = seen[&host.ino("cgroup/unified/system.slice/a.service")];
    assert_eq!((unit.cpu_us, unit.quota_us), (7, UNKNOWN));
    let parts = host.files(Duration::from_secs(5)).parts;
    let cpu = parts.iter().find(|part| part.name == "cpu").unwrap();
    assert_eq!(cpu.state, Ok(format!("at {}", host.path("cgroup/cpu,cpuacct").display())));
}

#[tokio::test(start_paused = true)]
async fn of_groups_in_groups_those_that_have_others_say_so() {
    let host = Host::new();
    for group in [
        &format!("{POD}/{ID}"),
        &format!("{POD}/{ID}/init.scope"),
        &format!("system.slice/docker-{ID}.scope/kubelet/{POD}/{OTHER}"),
        &format!("system.slice/docker-{ID}.scope"),
        "system.slice/nginx.service",
        "user.slice/user-0.slice/user@0.service/app.slice/a.service",
        "user.slice/user-0.slice/user@0.service",
    ] {
        host.two(group);
    }
    let seen = scan(&mut host.reader()).await;
    let inner = |path: &str| seen.get(&host.ino(&format!("cgroup/{path}"))).map(|sample| sample.inner);
    assert_eq!(inner(&format!("{POD}/{ID}")), Some(0));
    assert_eq!(inner(&format!("{POD}/{ID}/init.scope")), None, "of its container");
    assert_eq!(inner(POD), None);
    assert_eq!(inner(&format!("system.slice/docker-{ID}.scope")), Some(1));
    assert_eq!(inner(&format!("system.slice/docker-{ID}.scope/kubelet/{POD}/{OTHER}")), Some(0));
    assert_eq!(inner("system.slice/nginx.service"), Some(0));
    assert_eq!(inner("user.slice/user-0.slice/user@0.service"), Some(0));
    assert_eq!(inner("user.slice/user-0.slice/user@0.service/app.slice/a.service"), None, "of its user");
}

#[tokio::test(start_paused = true)]
async fn a_service_of_the_node_is_known_where_the_host_named_it() {
    let host = Host::new();
    for group in [
        "system.slice/kubelet.service",
        "system.slice/nginx.service",
        &format!("system.slice/docker-{ID}.scope/kubelet.slice/kubelet.service"),
        "user.slice/user-0.slice/user@0.service/app.slice/kubelet.service",
    ] {
        host.two(group);
    }
    let seen = scan(&mut host.reader()).await;
    let services: Vec<_> = seen.values().filter(|sample| sample.service != 0).collect();
    assert_eq!(services.len(), 1, "{services:?}");
    assert_eq!(services[0].header.cgroup_id, host.ino("cgroup/system.slice/kubelet.service"));
    assert_eq!(SERVICES[services[0].service as usize - 1], "kubelet.service");
}

#[tokio::test(start_paused = true)]
async fn a_service_has_not_ended_because_it_cannot_be_found_or_read() {
    let host = Host::new();
    let (kubelet, proxy) = ("cgroup/system.slice/kubelet.service", "cgroup/system.slice/kube-proxy.service");
    for path in [kubelet, proxy] {
        fs::create_dir_all(host.path(path)).unwrap();
        // The kernel opens directories, but does not read them as files.
        fs::create_dir(host.path(path).join("memory.max")).unwrap();
    }
    fs::write(host.path("cgroup/cgroup.controllers"), "memory cpu").unwrap();
    let mut reader = host.reader();
    let services = |seen: &HashMap<u64, Sample>| seen.values().filter(|sample| sample.service != 0).count();
    assert_eq!(services(&scan(&mut reader).await), 2, "nothing of them can be read");

    // The slice comes after the outermost cgroups, which are too many already.
    for at in 0..20_000 {
        fs::create_dir(host.path(&format!("cgroup/{at}"))).unwrap();
    }
    fs::remove_dir_all(host.path(proxy)).unwrap();
    for _ in 0..2 {
        let seen = scan(&mut reader).await;
        assert_eq!(services(&seen), 1, "only the one that was removed has ended");
        assert!(seen.contains_key(&host.ino(kubelet)));
    }
}

#[tokio::test(start_paused = true)]
async fn garbage_is_unknown() {
    let host = Host::new();
    for (at, garbage) in
        ["", "\n", "max max max", "-1\n", "\u{0}\u{1}", "9".repeat(40).as_str()].iter().enumerate()
    {
        let group = format!("system.slice/g{at}.service");
        host.two(&group);
        for name in ["memory.current", "memory.stat", "cpu.stat", "memory.pressure", "io.pressure"] {
            host.write(&format!("cgroup/{group}/{name}"), garbage);
        }
        let seen = scan(&mut host.reader()).await;
        let sample = seen[&host.ino(&format!("cgroup/{group}"))];
        let values = [sample.usage_bytes, sample.held_bytes, sample.memory_some_us, sample.io_full_us];
        assert_eq!(values, [UNKNOWN; 4], "{garbage:?}");
        assert_eq!([sample.periods, sample.throttled, sample.cpu_us], [UNKNOWN; 3], "{garbage:?}");
    }
    host.two("system.slice/none.service");
    host.write("cgroup/system.slice/none.service/memory.max", "max\n");
    host.write("cgroup/system.slice/none.service/cpu.max", "max 100000\n");
    let seen = scan(&mut host.reader()).await;
    let sample = seen[&host.ino("cgroup/system.slice/none.service")];
    assert_eq!((sample.limit_bytes, sample.quota_us), (UNLIMITED, UNLIMITED));
    assert_eq!(sample.held_bytes, UNKNOWN, "not even read");
    assert_ne!(sample.cpu_us, UNKNOWN, "its CPU time may be why another has trouble");
}

#[tokio::test(start_paused = true)]
async fn odd_names_and_depths_are_borne() {
    let host = Host::new();
    host.two("system.slice/nginx.service");
    let deep = (0..100).fold(host.path("cgroup"), |path, level| path.join(format!("d{level}")));
    fs::create_dir_all(deep.join(ID)).unwrap();
    for name in [&b"new\nline.service"[..], b"\xff\xfe.service", b"tab\t.scope", b" "] {
        fs::create_dir_all(host.path("cgroup").join(OsStr::from_bytes(name))).unwrap();
    }
    std::os::unix::fs::symlink(host.path("cgroup"), host.path("cgroup/loop.service")).unwrap();
    let seen = scan(&mut host.reader()).await;
    assert_eq!(seen.len(), 2, "the unit and the node: {seen:?}");
}

#[tokio::test(start_paused = true)]
async fn groups_come_and_go() {
    let host = Host::new();
    host.two("system.slice/a.service");
    let count = |n: u64| {
        host.write("cgroup/cgroup.stat", &format!("nr_descendants {n}\nnr_dying_descendants 0\n"));
    };
    count(2);
    let mut reader = host.reader();
    assert_eq!(scan(&mut reader).await.len(), 2);
    host.two("system.slice/b.service");
    count(3);
    assert_eq!(scan(&mut reader).await.len(), 3);
    fs::remove_dir_all(host.path("cgroup/system.slice/a.service")).unwrap();
    assert_eq!(scan(&mut reader).await.len(), 2, "vanished, whatever the count says");
    assert_eq!(scan(&mut reader).await.len(), 2);
    fs::rename(host.path("cgroup/system.slice/b.service"), host.path("cgroup/system.slice/c.service"))
        .unwrap();
    assert_eq!(scan(&mut reader).await.len(), 1);
    assert_eq!(scan(&mut reader).await.len(), 2, "found again under its new name");
}

#[tokio::test(start_paused = true)]
async fn a_groups_waiting_is_read_again_once_the_node_has_waited() {
    let host = Host::new();
    host.two("system.slice/a.service");
    let mut reader = host.reader();
    let id = host.ino("cgroup/system.slice/a.service");
    assert_eq!(scan(&mut reader).await[&id].memory_some_us, 70);
    host.pressure("cgroup/system.slice/a.service/memory.pressure", 5_000);
    host.pressure("proc/pressure/memory", 6_000);
    assert_eq!(scan(&mut reader).await[&id].memory_some_us, 70);
    host.pressure("proc/pressure/memory", 600_000);
    host.pressure("cgroup/system.slice/a.service/memory.pressure", 500_000);
    assert_eq!(scan(&mut reader).await[&id].memory_some_us, 500_000);
}

/// The node's pressure is a mean over its CPUs, so one stalling CPU among busy ones shows only a little.
#[tokio::test(start_paused = true)]
async fn what_waits_on_one_cpus_of_many_is_read_in_each_pass() {
    // 24 % of five seconds on one CPU are 19 ms of the node's pressure with 64 CPUs.
    for (cpus, known_us) in [(1, [0, 2_400_000, 2_400_000]), (64, [1_200_000, 2_400_000, 3_600_000])] {
        let host = Host::new();
        host.cpus(cpus);
        host.two("system.slice/a.service");
        let mut reader = host.reader();
        let id = host.ino("cgroup/system.slice/a.service");
        let mut seen = Vec::new();
        scan(&mut reader).await;
        for at in 1..=3 {
            host.pressure("proc/pressure/memory", 1_000 + at * 18_750);
            host.pressure("cgroup/system.slice/a.service/memory.pressure", 70 + at * 1_200_000);
            seen.push(scan(&mut reader).await[&id].memory_some_us - 70);
        }
        assert_eq!(seen, known_us, "{cpus}");
    }
}

#[tokio::test(start_paused = true)]
async fn where_there_is_nothing_each_thing_says_so() {
    let empty = tempfile::tempdir().unwrap();
    let (none, interval) = (empty.path().join("none"), Duration::from_secs(5));
    let mut files = Files::open(&none, empty.path(), interval, Arc::default());
    assert_eq!(files.parts.len(), 5);
    for part in &files.parts {
        let absent = part.state.as_ref().unwrap_err();
        assert!(!absent.why.is_empty() && absent.remedy.is_some(), "{part:?}");
    }
    let seen = scan(&mut files.reader()).await;
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[&WHOLE_NODE].held_bytes, UNKNOWN);
}

#[tokio::test(start_paused = true)]
async fn passes_are_an_interval_apart_and_further_where_they_are_dear() {
    let host = Host::new();
    host.two("system.slice/s0.service");
    let mut reader = host.reader();
    scan(&mut reader).await;
    let first = Instant::now();
    scan(&mut reader).await;
    assert!(first.elapsed() >= Duration::from_millis(4_900), "{:?}", first.elapsed());
    (0..200).for_each(|at| host.two(&format!("system.slice/s{at}.service")));
    // Only their cost limits how often scans run.
    let brief = Duration::from_millis(1);
    let mut reader = host.files(brief).reader();
    scan(&mut reader).await;
    let spent = reader.spent;
    let expensive = Instant::now();
    let seen = scan(&mut reader).await;
    assert_eq!(seen.len(), 201);
    assert!(expensive.elapsed() + Duration::from_millis(100) >= spent * SHARE);
}
