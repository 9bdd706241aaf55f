//! Node observer: one sample of the files of a cgroup or of the whole node; and [`cycles`], the performance counters
//! that its kernel program reads.

pub mod cycles;

use bytemuck::{Pod, Zeroable};

use crate::{Event, Header};

/// A number that could not be read, or that this kernel lacks. Nothing is concluded from it.
pub const UNKNOWN: u64 = u64::MAX;
/// A limit that is not set.
pub const UNLIMITED: u64 = u64::MAX - 1;

/// Values of [`Sample::kind`].
pub mod kind {
    /// A cgroup.
    pub const CGROUP: u32 = 1;
    /// The whole node; its cgroup id is [`crate::WHOLE_NODE`].
    pub const NODE: u32 = 2;
    /// A [`super::cycles::CyclesEvent`] of the kernel program: a cgroup takes more cycles per instruction.
    pub const CPI_OUTLIER: u32 = 3;
    /// A [`super::cycles::CyclesEvent`] of the kernel program: the whole node takes more cycles per instruction.
    pub const IPC_DEGRADED: u32 = 4;
    /// An [`super::Ancestor`]: a cgroup above those of containers and units that has a limit of its own.
    pub const ANCESTOR: u32 = 5;
}

/// systemd units that a node of Kubernetes needs, and whose cgroup ends with them. Those that leave their containers
/// running (containerd, Docker, k3s) keep their cgroup, so that it does not tell whether they run.
pub const SERVICES: &[&str] = &[
    "cri-docker.service",
    "crio.service",
    "etcd.service",
    "kube-apiserver.service",
    "kube-controller-manager.service",
    "kube-proxy.service",
    "kube-scheduler.service",
    "kubelet.service",
    "snap.microk8s.daemon-kubelite.service",
];

/// One sample. Counters are sums since the cgroup was created; any number may be [`UNKNOWN`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Sample {
    /// When the sample was taken, and of which cgroup; has no process.
    pub header: Header,
    /// One of [`kind`].
    pub kind: u32,
    /// 1 if the cgroup contains containers or units that are sampled themselves, which account for its stalls.
    pub inner: u32,
    /// Memory charged to the cgroup, caches included.
    pub usage_bytes: u64,
    /// Memory that cannot be dropped: anonymous and shared memory, and kernel memory.
    pub held_bytes: u64,
    /// Memory limit, or [`UNLIMITED`].
    pub limit_bytes: u64,
    /// Swap in use.
    pub swap_bytes: u64,
    /// Maximum swap, including the swap in use.
    pub swap_limit_bytes: u64,
    /// Time in which some task waited for memory, in microseconds.
    pub memory_some_us: u64,
    /// Time in which all tasks waited for memory, in microseconds.
    pub memory_full_us: u64,
    /// Time in which some task waited for I/O, in microseconds.
    pub io_some_us: u64,
    /// Time in which all tasks waited for I/O, in microseconds.
    pub io_full_us: u64,
    /// CPU time used, in microseconds.
    pub cpu_us: u64,
    /// CPU quota per period in microseconds, or [`UNLIMITED`].
    pub quota_us: u64,
    /// Length of a period in microseconds.
    pub period_us: u64,
    /// Periods in which the cgroup ran.
    pub periods: u64,
    /// Periods in which it had used up its quota and was throttled.
    pub throttled: u64,
    /// Time for which it was throttled, in microseconds, summed over CPUs.
    pub throttled_us: u64,
    /// One more than its index in [`SERVICES`]; 0 for none of them.
    pub service: u64,
}

impl Sample {
    /// A sample in which every number is [`UNKNOWN`].
    #[must_use]
    pub const fn unknown(kind: u32, header: Header) -> Self {
        Self {
            header,
            kind,
            inner: 0,
            usage_bytes: UNKNOWN,
            held_bytes: UNKNOWN,
            limit_bytes: UNKNOWN,
            swap_bytes: UNKNOWN,
            swap_limit_bytes: UNKNOWN,
            memory_some_us: UNKNOWN,
            memory_full_us: UNKNOWN,
            io_some_us: UNKNOWN,
            io_full_us: UNKNOWN,
            cpu_us: UNKNOWN,
            quota_us: UNKNOWN,
            period_us: UNKNOWN,
            periods: UNKNOWN,
            throttled: UNKNOWN,
            throttled_us: UNKNOWN,
            service: 0,
        }
    }
}

impl Event for Sample {
    fn header(&self) -> &Header {
        &self.header
    }
}

/// Longest name of an [`Ancestor`] that is reported, in bytes.
pub const MAX_NAME: usize = 64;

/// One sample of a cgroup above those of containers and units: a pod or a slice, whose limits the cgroups in it share.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Ancestor {
    /// Numbers of the cgroup itself; its kind is [`kind::ANCESTOR`].
    pub sample: Sample,
    /// Id of the cgroup below that used most CPU time since the last sample; 0 if unknown.
    pub cpu_cgroup: u64,
    /// Id of the cgroup below that holds most memory; 0 if unknown.
    pub memory_cgroup: u64,
    /// Of the cgroups below that have a memory limit, how full the fullest one is, in 1/1024.
    pub filled: u64,
    /// Sum of the periods in which cgroups below were throttled by quotas of their own.
    pub throttled: u64,
    /// How many levels the ancestor is above `cpu_cgroup`.
    pub cpu_levels: u32,
    /// How many levels the ancestor is above `memory_cgroup`.
    pub memory_levels: u32,
    /// Name of its directory, padded with zeros; all zeros if that is longer, or not plain ASCII.
    pub name: [u8; MAX_NAME],
}

impl Event for Ancestor {
    fn header(&self) -> &Header {
        &self.sample.header
    }
}
