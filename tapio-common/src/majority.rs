//! Who has most of something: a majority vote (Boyer and Moore), which needs one candidate and no list.

use bytemuck::{Pod, Zeroable};

/// The cgroup that most is of, whatever is counted. All zeros is one without a count.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Majority {
    /// The candidate's cgroup.
    pub cgroup_id: u64,
    /// What is the candidate's, less what is of all others, since it is the candidate.
    pub votes: u64,
    /// What is the candidate's, since it is the candidate.
    pub own: u64,
    /// What is of all.
    pub all: u64,
}

impl Majority {
    /// Counts what is of a cgroup.
    #[inline(always)]
    pub const fn count(&mut self, cgroup_id: u64, weight: u64) {
        self.all += weight;
        if self.cgroup_id == cgroup_id {
            self.votes += weight;
            self.own += weight;
        } else if self.votes > weight {
            self.votes -= weight;
        } else {
            self.cgroup_id = cgroup_id;
            self.votes = weight - self.votes;
            self.own = weight;
        }
    }

    /// The cgroup that certainly at least this percentage is of, and what is certainly its share. `None` if there is no
    /// such cgroup.
    #[must_use]
    pub const fn most(&self, least_percent: u64) -> Option<(u64, u64)> {
        match self.own.saturating_mul(100).checked_div(self.all) {
            // Counts of CPUs that race may not add up.
            Some(percent) if percent >= least_percent && self.cgroup_id != 0 => {
                Some((self.cgroup_id, if percent > 100 { 100 } else { percent }))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn most_is_of_one() {
        let mut bytes = Majority::default();
        assert_eq!(bytes.most(50), None);
        for nth in 0..100 {
            bytes.count(if nth % 5 == 0 { 7 } else { 9 }, 4_096);
        }
        assert_eq!(bytes.most(75), Some((9, 80)));
        for _ in 0..100 {
            bytes.count(7, 4_096);
        }
        assert_eq!((bytes.most(50), bytes.most(20)), (None, Some((7, 20))), "60 %, of which 20 are certain");
    }

    #[test]
    fn the_share_is_never_more_than_it_is() {
        let mut counted = Majority::default();
        let mut of_each = [0; 4];
        for nth in 0..1_000_u64 {
            let id = if nth % 3 == 0 { 1 } else { nth * 7 % 4 };
            counted.count(id + 1, nth % 11);
            of_each[id as usize] += nth % 11;
        }
        let own = of_each[counted.cgroup_id as usize - 1];
        assert!(counted.own <= own && counted.all == of_each.iter().sum::<u64>(), "{counted:?} {of_each:?}");
    }

    #[test]
    fn what_is_nobodys_is_not_named() {
        let mut counted = Majority::default();
        counted.count(0, 512);
        assert_eq!(counted.most(50), None);
    }
}
