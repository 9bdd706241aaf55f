//! The workload that owns a pod, derived from names alone. Reading ReplicaSets and Jobs would need two more
//! permissions on every node.

/// One minute; the CronJob controller counts in minutes.
const MINUTE_SECONDS: u64 = 60;
/// The longest time by which a pod can come later than its CronJob's Job was due: retries, and suspended
/// runs.
const MAX_DELAY_SECONDS: u64 = 7 * 24 * 3600;

/// Kind and name of the workload that an operator knows: the Deployment of a ReplicaSet, the CronJob of a
/// Job, if the name shows that with certainty. `None` for an owner that is no workload, such as the node that
/// owns a static pod's mirror.
///
/// `template_hash` is the pod's label `pod-template-hash`; `created_unix_s` is when the pod was created.
#[must_use]
pub fn resolve<'a>(
    kind: &'a str,
    name: &'a str,
    template_hash: Option<&str>,
    created_unix_s: Option<u64>,
) -> Option<(&'a str, &'a str)> {
    match kind {
        "Node" => None,
        // The Deployment controller names it NAME-HASH, and labels its pods with the hash.
        "ReplicaSet" => {
            let deployment = template_hash
                .filter(|hash| !hash.is_empty())
                .and_then(|hash| name.strip_suffix(hash)?.strip_suffix('-'))
                .filter(|deployment| !deployment.is_empty());
            Some(deployment.map_or((kind, name), |deployment| ("Deployment", deployment)))
        }
        // The CronJob controller names it NAME-MINUTES, by the minute since 1970 UTC when it was due.
        "Job" => {
            let cron_job = name.rsplit_once('-').filter(|(name, minutes)| {
                !name.is_empty()
                    && minutes.bytes().all(|b| b.is_ascii_digit())
                    && minutes.parse().is_ok_and(|minutes| was_due(minutes, created_unix_s))
            });
            Some(cron_job.map_or((kind, name), |(name, _)| ("CronJob", name)))
        }
        _ => Some((kind, name)),
    }
}

/// Whether a Job due in this minute can have created a pod at that time. A number that a user put into the
/// name, such as a date or a count, is not such a minute.
fn was_due(minutes: u64, created_unix_s: Option<u64>) -> bool {
    let due = minutes.saturating_mul(MINUTE_SECONDS);
    created_unix_s.is_some_and(|created| {
        due <= created.saturating_add(MINUTE_SECONDS) && created <= due.saturating_add(MAX_DELAY_SECONDS)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_owner_behind_the_owner() {
        // 2026-11-21 09:00 UTC is minute 29_921_340.
        let created = Some(29_921_340 * 60 + 3);
        for (kind, name, hash, expected) in [
            ("ReplicaSet", "checkout-7d9f8c6b5d", Some("7d9f8c6b5d"), Some(("Deployment", "checkout"))),
            ("ReplicaSet", "a-b-c-5d", Some("5d"), Some(("Deployment", "a-b-c"))),
            ("ReplicaSet", "checkout-7d9f8c6b5d", None, Some(("ReplicaSet", "checkout-7d9f8c6b5d"))),
            ("ReplicaSet", "frontend", Some("7d9f8c6b5d"), Some(("ReplicaSet", "frontend"))),
            ("ReplicaSet", "x5d", Some("5d"), Some(("ReplicaSet", "x5d"))),
            ("ReplicaSet", "-5d", Some("5d"), Some(("ReplicaSet", "-5d"))),
            ("ReplicaSet", "frontend", Some(""), Some(("ReplicaSet", "frontend"))),
            ("Job", "backup-29921340", None, Some(("CronJob", "backup"))),
            ("Job", "backup-29921339", None, Some(("CronJob", "backup"))),
            ("Job", "backup-29921342", None, Some(("Job", "backup-29921342"))),
            ("Job", "backup-20261121", None, Some(("Job", "backup-20261121"))),
            ("Job", "backup-2", None, Some(("Job", "backup-2"))),
            ("Job", "backup-", None, Some(("Job", "backup-"))),
            ("Job", "backup", None, Some(("Job", "backup"))),
            ("Job", "-29921340", None, Some(("Job", "-29921340"))),
            ("Job", "b-99999999999999999999", None, Some(("Job", "b-99999999999999999999"))),
            ("StatefulSet", "redis", None, Some(("StatefulSet", "redis"))),
            ("DaemonSet", "node-exporter", None, Some(("DaemonSet", "node-exporter"))),
            ("Rollout", "x", Some("5d"), Some(("Rollout", "x"))),
            ("Node", "node-a", None, None),
        ] {
            assert_eq!(resolve(kind, name, hash, created), expected, "{kind} {name}");
        }
        assert_eq!(resolve("Job", "backup-29921340", None, None), Some(("Job", "backup-29921340")));
    }
}
