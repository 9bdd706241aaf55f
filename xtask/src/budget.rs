//! Time limits for the kernel tests of an observer, because every change waits for them. CONTRIBUTING.md has
//! the rule.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, bail};

/// A limit in seconds for the kernel tests of one observer.
pub(crate) struct Budget {
    observer: u64,
    /// Limits for the observers older than the rule or with a reason, and for the tests of all observers.
    first: &'static [(&'static str, u64)],
}

pub(crate) const HOST: Budget = Budget {
    observer: 20,
    first: &[
        ("agent", 90),
        ("container", 270),
        // Real clients wait for answers that do not come; half of them beside the others.
        ("dns", 100),
        // Fills a table of a quarter of a million connections.
        ("link", 60),
        ("network", 270),
        ("node", 270),
        ("support", 20),
    ],
};
/// CPU time, with `kernel-test --quick`, where guests share the machine, which makes the same work longer.
pub(crate) const GUEST: Budget = Budget {
    observer: 8,
    // Those of the agent load the programs of all observers. New kernels verify those of dns for long.
    // link has two tests.
    first: &[("agent", 220), ("container", 30), ("dns", 12), ("link", 16), ("network", 30), ("node", 30)],
};

impl Budget {
    /// Fails if modules of the kernel tests took longer than allowed.
    pub(crate) fn check<'a>(&self, took: impl IntoIterator<Item = (&'a str, Duration)>) -> Result<()> {
        let mut modules: BTreeMap<&str, Duration> = BTreeMap::new();
        for (module, took) in took {
            *modules.entry(module.split("::").next().unwrap_or(module)).or_default() += took;
        }
        let over: Vec<String> =
            modules.into_iter().filter_map(|(module, took)| self.over(module, took)).collect();
        if !over.is_empty() {
            bail!("over budget (CONTRIBUTING.md, Budgets): {}", over.join("; "));
        }
        Ok(())
    }

    fn over(&self, module: &str, took: Duration) -> Option<String> {
        let budget =
            self.first.iter().find(|(name, _)| *name == module).map_or(self.observer, |(_, own)| *own);
        (took > Duration::from_secs(budget))
            .then(|| format!("the kernel tests of {module} took {} s of {budget} s", took.as_secs()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_observer_over_its_budget_is_named() {
        let took = |seconds: u64| Duration::from_secs(seconds);
        assert!(HOST.check([("new", took(15)), ("node::pressure", took(150)), ("node", took(20))]).is_ok());
        let error = HOST.check([("new", took(15)), ("new::slow", took(6))]).unwrap_err().to_string();
        assert!(error.ends_with("the kernel tests of new took 21 s of 20 s"), "{error}");
    }
}
