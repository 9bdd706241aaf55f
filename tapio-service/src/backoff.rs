//! Delays between retries.

use std::time::Duration;

/// Exponential back-off with jitter: each wait is between half of a step and the whole, so that the agents of
/// a cluster do not all retry at once.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    first: Duration,
    most: Duration,
    step: Duration,
}

impl Backoff {
    /// Starts with waits of half of `first` to `first`, and doubles up to `most`.
    pub const fn new(first: Duration, most: Duration) -> Self {
        Self { first, most, step: first }
    }

    /// The next wait.
    pub fn wait(&mut self) -> Duration {
        let wait = self.step.mul_f64(0.5 + fastrand::f64() / 2.0);
        self.step = (self.step * 2).min(self.most);
        wait
    }

    /// The longest wait.
    pub const fn most(&self) -> Duration {
        self.most
    }

    /// Starts over after a success.
    pub const fn reset(&mut self) {
        self.step = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_up_to_its_limit_and_starts_again() {
        let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(30));
        let mut step = 0.5_f64;
        for _ in 0..20 {
            let wait = backoff.wait().as_secs_f64();
            assert!(wait >= step / 2.0 && wait <= step, "{wait} of {step}");
            step = (step * 2.0).min(30.0);
        }
        backoff.reset();
        assert!(backoff.wait() <= Duration::from_millis(500));
    }
}
