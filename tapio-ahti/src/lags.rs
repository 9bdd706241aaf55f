//! After how long the effects of a rule's cause came in this cluster.

/// Steps from a second to a day, of the same factor.
pub(crate) const STEPS: usize = 12;
const DAY_S: f64 = 86_400.0;
/// How many effects the lag of a rule file counts for.
const STRENGTH: f64 = 10.0;
/// Part of all lags that were never seen.
const FLAT: f64 = 0.1;

/// How well each lag fits, from 0 to 1, and for how many effects that is known.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Lags {
    fits: [f64; STEPS],
    count: u64,
}

/// The step of a lag in seconds.
pub(crate) fn step(lag_s: f64) -> usize {
    ((lag_s.max(1.0).ln() / DAY_S.ln() * STEPS as f64) as usize).min(STEPS - 1)
}

impl Lags {
    /// From how many effects came in each step.
    pub(crate) fn of(counts: [u64; STEPS]) -> Self {
        let at =
            |step: Option<usize>| step.and_then(|step| counts.get(step)).copied().unwrap_or_default() as f64;
        // A neighbour is half as near.
        let mut fits: [f64; STEPS] = std::array::from_fn(|step| {
            at(Some(step)) + (at(step.checked_sub(1)) + at(step.checked_add(1))) / 2.0
        });
        // What comes sooner than usual fits as well as what is usual.
        for step in (1..STEPS).rev() {
            fits[step - 1] = fits[step - 1].max(fits[step]);
        }
        let most = fits[0];
        if most > 0.0 {
            fits = fits.map(|fit| (1.0 - FLAT).mul_add(fit / most, FLAT));
        }
        Self { fits, count: counts.iter().sum() }
    }

    /// How well a lag fits, if a rule file says `before`.
    pub(crate) fn fit(&self, lag_s: f64, before: f64) -> f64 {
        let count = self.count as f64;
        let here = self.fits.get(step(lag_s)).copied().unwrap_or(before);
        (before * STRENGTH + here * count) / (STRENGTH + count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_learned_from_nothing() {
        assert!((Lags::of([0; STEPS]).fit(300.0, 0.4) - 0.4).abs() < 1e-9);
    }

    #[test]
    fn what_was_seen_fits_and_what_was_not_does_not() {
        let mut counts = [0; STEPS];
        counts[step(10_800.0)] = 90;
        let lags = Lags::of(counts);
        assert!((lags.fit(10_800.0, 0.2) - 0.92).abs() < 1e-9);
        assert!((lags.fit(60.0, 1.0) - 1.0).abs() < 1e-9, "sooner");
        assert!((lags.fit(80_000.0, 0.1) - 0.1).abs() < 0.41, "a neighbour");
        counts = [0; STEPS];
        counts[step(5.0)] = 90;
        assert!((Lags::of(counts).fit(10_800.0, 0.8) - 0.17).abs() < 1e-9);
    }

    #[test]
    fn each_lag_has_a_step() {
        for (lag_s, expected) in [(0.0, 0), (1.0, 0), (2.6, 1), (300.0, 6), (86_400.0, 11), (1e9, 11)] {
            assert_eq!(step(lag_s), expected, "{lag_s}");
        }
        assert_eq!(step(f64::NAN), 0);
    }
}
