//! Capabilities and security profiles of this process, and what is lost without each.

use std::{collections::HashSet, fs};

use caps::{CapSet, Capability};

use super::{pod::Pod, report::Line};
use crate::{
    kernel::memlock_limit,
    observer::{self, Built},
};

/// Capabilities and security profiles of this process.
#[derive(Debug)]
pub(super) struct Rights {
    effective: HashSet<Capability>,
    /// The process runs in a user namespace other than the host's, so its capabilities do not count for BPF.
    confined: bool,
    /// A seccomp filter is active.
    filtered: bool,
    /// The enforced AppArmor profile.
    profile: Option<String>,
    /// The bounding set: capabilities that root would have here.
    bounding: HashSet<Capability>,
    pod: Pod,
    /// Maps count against RLIMIT_MEMLOCK: before kernel 5.11.
    limited: bool,
    /// Capabilities that observers use in addition to CAP_BPF and CAP_PERFMON.
    used: Vec<observer::Right>,
}

/// A capability, what it is for, and the effect of its absence.
struct Right {
    capability: Capability,
    gives: &'static str,
    without: Without,
}

/// The effect of a missing capability.
enum Without {
    /// Only files can be observed.
    FilesOnly,
    /// The named function is lost.
    Degraded(&'static str),
    /// No effect worth a warning, for the named reason.
    Note(&'static str),
}

impl Rights {
    pub(super) fn read(pod: Pod, observers: &[Built]) -> Self {
        let bounding = caps::read(None, CapSet::Bounding).unwrap_or_default();
        let effective = caps::read(None, CapSet::Effective).unwrap_or_default();
        let confined = fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| !is_whole(&map));
        let filtered = fs::read_to_string("/proc/self/status").is_ok_and(|status| has_filter(&status));
        // If several security modules are active, `attr/current` may belong to another module.
        let labels = ["/proc/self/attr/apparmor/current", "/proc/self/attr/current"];
        let profile = labels.iter().find_map(|file| fs::read_to_string(file).ok());
        let profile = profile.and_then(|label| enforced(&label));
        let limited = memlock_limit().is_some();
        let used = observers.iter().flat_map(|built| built.rights).copied().collect();
        Self { effective, confined, filtered, profile, bounding, limited, pod, used }
    }

    pub(super) fn lines(&self) -> Vec<Line> {
        let mut lines = Vec::new();
        if self.confined {
            lines.push(Line::failed(
                "user namespace",
                "not the host's: capabilities do not count for BPF here",
                "run in the host's user namespace: as real root, or in a pod without hostUsers: false",
            ));
        }
        lines.extend(self.table().iter().map(|right| self.line(right)));
        if self.filtered {
            lines.push(Line::note("seccomp", "a filter is on: it has to allow bpf(2)"));
        }
        if let Some(profile) = &self.profile {
            let found =
                format!("the profile {profile} is enforced: it has to allow capability bpf and perfmon");
            lines.push(Line::note("AppArmor", found));
        }
        lines
    }

    /// The remedy for programs that the kernel refused to load.
    pub(super) fn remedy(&self) -> String {
        let missing = self.missing();
        if !missing.is_empty() {
            format!("run as root, or with {}", missing.join(" and "))
        } else if self.confined {
            "run in the host's user namespace".to_owned()
        } else if self.limited && !self.has(Capability::CAP_SYS_RESOURCE) {
            "run as root, or with CAP_SYS_RESOURCE, or raise RLIMIT_MEMLOCK".to_owned()
        } else {
            self.remedy_of_refusal()
        }
    }

    /// The remedy if the process has all capabilities and is still refused: seccomp or AppArmor refuses before the
    /// kernel's own checks.
    fn remedy_of_refusal(&self) -> String {
        let seccomp = "let the seccomp profile allow bpf(2) and perf_event_open(2)";
        let apparmor =
            |profile: &str| format!("let the AppArmor profile {profile} allow capability bpf and perfmon");
        let (seccomp, apparmor) = match self.pod.is() {
            false => (seccomp.to_owned(), self.profile.as_deref().map(apparmor)),
            true => (
                format!(
                    "{seccomp} (in a pod: securityContext.seccompProfile: {{type: Unconfined}} does; with the chart \
                     seccompProfile: Unconfined)"
                ),
                self.profile.as_deref().map(|profile| {
                    format!(
                        "{} (in a pod: securityContext.appArmorProfile: {{type: Unconfined}} does; with the chart \
                         appArmorProfile: Unconfined)",
                        apparmor(profile)
                    )
                }),
            ),
        };
        match (self.filtered, apparmor) {
            (true, None) => format!("{seccomp}; if it does, report this line"),
            (false, Some(apparmor)) => format!("{apparmor}; if it does, report this line"),
            (true, Some(apparmor)) => {
                format!("{apparmor}, if the kernel's log has apparmor=\"DENIED\" for it; else {seccomp}")
            }
            (false, None) => "report this line, with the kernel's release".to_owned(),
        }
    }

    /// Capabilities without which only files can be observed.
    pub(super) fn missing(&self) -> Vec<String> {
        let missing =
            |right: &&Right| matches!(right.without, Without::FilesOnly) && !self.has(right.capability);
        self.table().iter().filter(missing).map(|right| right.capability.to_string()).collect()
    }

    fn table(&self) -> Vec<Right> {
        let mut table = vec![
            Right {
                capability: Capability::CAP_BPF,
                gives: "loads programs, makes maps",
                without: Without::FilesOnly,
            },
            Right {
                capability: Capability::CAP_PERFMON,
                gives: "attaches programs to tracepoints, opens performance counters",
                without: Without::FilesOnly,
            },
        ];
        table.extend(self.used.iter().filter_map(|right| {
            let without = if right.is_expected { Without::Degraded } else { Without::Note };
            let capability = right.capability.parse().ok()?;
            Some(Right { capability, gives: right.gives, without: without(right.lost) })
        }));
        table.push(Right {
            capability: Capability::CAP_SYS_RESOURCE,
            gives: "raises the limit that maps count against before kernel 5.11, sets triggers before 6.5",
            without: if self.limited {
                Without::Degraded("maps may not fit into RLIMIT_MEMLOCK")
            } else {
                Without::Note("maps count against no limit here; for triggers see the node observer")
            },
        });
        table
    }

    fn line(&self, right: &Right) -> Line {
        let name = right.capability.to_string();
        let add = |name: &str| {
            if self.pod.is() && self.bounding.contains(&right.capability) {
                return "set runAsUser: 0: a capability that the pod adds is root's alone".to_owned();
            }
            let short = name.strip_prefix("CAP_").unwrap_or(name);
            format!("run as root, or with {name} (in a pod: capabilities.add: [{short}])")
        };
        match (&right.without, self.has(right.capability)) {
            (_, true) => Line::ok(name, right.gives),
            (Without::FilesOnly, _) => {
                let remedy = add(&name);
                Line::failed(name, format!("missing ({}): only files can be observed", right.gives), remedy)
            }
            (Without::Degraded(lost), _) => {
                let remedy = add(&name);
                Line::degraded(name, format!("missing ({}): {lost}", right.gives), remedy)
            }
            (Without::Note(why), _) => Line::note(name, format!("missing: {why}")),
        }
    }

    /// CAP_SYS_ADMIN includes the capabilities that kernel 5.8 split off from it.
    pub(super) fn has(&self, capability: Capability) -> bool {
        let part = matches!(capability, Capability::CAP_BPF | Capability::CAP_PERFMON);
        self.effective.contains(&capability) || (part && self.effective.contains(&Capability::CAP_SYS_ADMIN))
    }
}

/// The host's own user namespace maps all ids to themselves.
fn is_whole(uid_map: &str) -> bool {
    uid_map.split_whitespace().eq(["0", "0", "4294967295"])
}

/// Mode 2 means a filter, Documentation/userspace-api/seccomp_filter.rst.
fn has_filter(status: &str) -> bool {
    status.lines().any(|line| line.strip_prefix("Seccomp:").is_some_and(|mode| mode.trim() == "2"))
}

/// Parses the profile's name from `cri-containerd.apparmor.d (enforce)`. Other modes, and other modules' labels, forbid
/// nothing.
fn enforced(label: &str) -> Option<String> {
    label.trim_end_matches(['\n', '\0']).strip_suffix(" (enforce)").map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::{super::report::State, *};

    fn with(effective: &[Capability]) -> Rights {
        let effective = effective.iter().copied().collect();
        Rights {
            effective,
            confined: false,
            filtered: false,
            profile: None,
            bounding: HashSet::new(),
            limited: false,
            pod: Pod(false),
            used: Vec::new(),
        }
    }

    fn bad(rights: &Rights) -> Vec<String> {
        let is_bad = |state: &State| matches!(state, State::Degraded { .. } | State::Failed { .. });
        rights.lines().into_iter().filter(|line| is_bad(&line.state)).map(|line| line.name).collect()
    }

    #[test]
    fn each_missing_capability_is_named_with_its_remedy() {
        let none = with(&[]);
        assert_eq!(bad(&none)[..2], ["CAP_BPF", "CAP_PERFMON"]);
        assert!(!bad(&none).contains(&"CAP_SYS_PTRACE".to_owned()));
        assert_eq!(none.remedy(), "run as root, or with CAP_BPF and CAP_PERFMON");
        let bpf = with(&[Capability::CAP_BPF]);
        assert_eq!(bpf.remedy(), "run as root, or with CAP_PERFMON");
        let admin = with(&[Capability::CAP_SYS_ADMIN, Capability::CAP_SYS_PTRACE]);
        assert!(!bad(&admin).iter().any(|name| name == "CAP_BPF" || name == "CAP_PERFMON"));
        let limited = Rights { limited: true, ..with(&[Capability::CAP_BPF, Capability::CAP_PERFMON]) };
        assert!(bad(&limited).contains(&"CAP_SYS_RESOURCE".to_owned()));
        assert!(limited.remedy().contains("RLIMIT_MEMLOCK"));
    }

    #[test]
    fn a_user_namespace_is_distinguished_from_the_host() {
        assert!(is_whole("         0          0 4294967295\n"));
        assert!(!is_whole("         0     100000      65536\n"));
        let confined = Rights { confined: true, ..with(&[Capability::CAP_BPF, Capability::CAP_PERFMON]) };
        assert!(bad(&confined).contains(&"user namespace".to_owned()));
        assert!(confined.remedy().contains("user namespace"));
    }

    #[test]
    fn seccomp_is_seen() {
        assert!(has_filter("Name:\ttapio\nSeccomp:\t2\nSeccomp_filters:\t1\n"));
        assert!(!has_filter("Seccomp:\t0\nSeccomp_filters:\t0\n"));
    }

    #[test]
    fn seccomp_and_apparmor_are_distinguished() {
        let allowed = || with(&[Capability::CAP_BPF, Capability::CAP_PERFMON]);
        assert!(allowed().remedy().starts_with("report this line"));
        let seccomp = Rights { filtered: true, ..allowed() }.remedy();
        assert!(seccomp.contains("seccomp") && !seccomp.contains("AppArmor"), "{seccomp}");
        let profile = || enforced("cri-containerd.apparmor.d (enforce)\n");
        let apparmor = Rights { profile: profile(), ..allowed() };
        let remedy = apparmor.remedy();
        assert!(remedy.contains("AppArmor profile cri-containerd.apparmor.d") && !remedy.contains("seccomp"));
        assert!(apparmor.lines().iter().any(|line| line.name == "AppArmor" && line.state == State::Note));
        let both = Rights { profile: profile(), filtered: true, pod: Pod(true), ..allowed() }.remedy();
        assert!(both.contains("DENIED") && both.contains("seccompProfile: {type: Unconfined}"), "{both}");
        for label in ["unconfined\n", "docker-default (complain)\n", "system_u:system_r:container_t:s0"] {
            assert_eq!(enforced(label), None);
        }
    }

    #[test]
    fn in_a_pod_of_another_user_root_is_the_remedy() {
        let bounding = HashSet::from([Capability::CAP_BPF]);
        let rights = Rights { bounding, pod: Pod(true), ..with(&[]) };
        let remedy = |name: &str| match rights
            .lines()
            .into_iter()
            .find(|line| line.name == name)
            .map(|line| line.state)
        {
            Some(State::Failed { remedy }) => remedy,
            other => panic!("{other:?}"),
        };
        assert!(remedy("CAP_BPF").contains("runAsUser: 0"));
        assert!(remedy("CAP_PERFMON").contains("capabilities.add: [PERFMON]"));
    }
}
