//! The scheduler observer's section of the configuration.

use std::{
    fmt::{self, Display},
    str::FromStr,
};

use http::{Uri, uri::Scheme};
use tapio_common::baseline;
use tapio_service::setting::{
    AbsolutePath, Bytes, Count, Form, MIB, MS, Off, Ratio, SEC, Switch, Time, US, Value, Wrong, settings,
    shown,
};

use crate::observer::gauge::Sustained;

/// Where kube-scheduler serves its metrics if it runs on this host.
pub(super) const LOCAL: &str = "https://127.0.0.1:10259/metrics";
/// How many samples off the mean on one side are a new level, where no setting says it.
const RUN: u8 = 12;

settings! {
    /// The scheduler observer. kube-scheduler has to let the agent read its metrics: nonResourceURLs /metrics, verb get.
    pub struct Settings {
        /// The URL of kube-scheduler's metrics, as https://10.0.0.7:10259/metrics. `off`: it is looked for at
        /// https://127.0.0.1:10259/metrics, and where nothing listens there is nothing to observe.
        pub url: Off<Url> = Off(None),
        /// File with the bearer token. `off`: that of the pod's service account, where there is one and no `cert`.
        pub token_file: Off<AbsolutePath> = Off(None),
        /// PEM file with the certificates of the authorities that are trusted, instead of this machine's.
        pub ca: Off<AbsolutePath> = Off(None),
        /// PEM file with the agent's own certificate, instead of a token.
        pub cert: Off<AbsolutePath> = Off(None),
        /// PEM file with the key of that certificate.
        pub key: Off<AbsolutePath> = Off(None),
        /// Accept any certificate: kube-scheduler's is self-signed unless it is given one. Who can answer in its place
        /// gets the token.
        pub insecure_skip_verify: Switch = Switch::False,
        /// How often it is scraped.
        pub interval: Time<SEC, { 300 * SEC }> = Time::of_ns(15 * SEC),
        /// How long an answer may take.
        pub timeout: Time<{ 100 * MS }, { 60 * SEC }> = Time::of_ns(10 * SEC),
        /// How large an answer may be.
        pub max_body: Bytes<{ 64 << 10 }, { 256 * MIB }> = Bytes::of(16 * MIB),
        /// How many series an answer may have.
        pub max_series: Count<100, 1_000_000> = Count::of(100_000),
        /// Mean duration of the attempts that placed a pod, against its past: scheduler.latency.
        pub latency: Latency = Latency::default(),
        /// Pending pods of each queue, against its past: scheduler.queue_depth.
        pub queue: Queue = Queue::default(),
        /// How long pods have to be unschedulable before it is reported: scheduler.unschedulable.
        pub unschedulable_after: Time<0, { 3_600 * SEC }> = Time::of_ns(30 * SEC),
    }
}

settings! {
    /// When scheduling attempts are slow.
    pub struct Latency {
        /// How many attempts are judged together at least.
        pub min_attempts: Count<1, 1_000_000> = Count::of(10),
        /// How much over the mean is never too much.
        pub floor: Time<0, { 60 * SEC }> = Time::of_ns(50 * MS),
        /// How many times the mean is too much.
        pub ratio: Ratio<110, 10_000> = Ratio::of_percent(200),
        /// How many mean deviations over the mean are too much.
        pub deviations: Count<1, 100> = Count::of(4),
        /// How many times in a row it has to be.
        pub sustain: Count<1, 100> = Count::of(2),
        /// How many off the mean on one side are a new level, which is then learned.
        pub run: Count<2, 100> = Count::of(12),
        /// How many teach a baseline before it judges.
        pub min_samples: Count<2, 10_000> = Count::of(16),
    }
}

settings! {
    /// When a queue is deep.
    pub struct Queue {
        /// How many pods over the mean are never too many.
        pub floor: Count<0, 1_000_000> = Count::of(20),
        /// How many times the mean is too much.
        pub ratio: Ratio<110, 10_000> = Ratio::of_percent(200),
        /// How many mean deviations over the mean are too much.
        pub deviations: Count<1, 100> = Count::of(4),
        /// How many scrapes in a row it has to last.
        pub sustain: Count<1, 100> = Count::of(3),
        /// How many off the mean on one side are a new level, which is then learned.
        pub run: Count<2, 100> = Count::of(12),
        /// How many teach a baseline before it judges.
        pub min_samples: Count<2, 10_000> = Count::of(16),
    }
}

/// The settings in the units that scrapes are judged in.
#[derive(Debug)]
pub(super) struct Limits {
    pub(super) min_attempts: u64,
    /// In microseconds.
    pub(super) latency: Sustained,
    /// In pods, as the next two.
    pub(super) queue: Sustained,
    pub(super) unschedulable: baseline::Limits,
    pub(super) victims: Sustained,
    pub(super) unschedulable_after_ns: u64,
    pub(super) interval_ns: u64,
}

impl Settings {
    /// See [`Observer::check`](crate::observer::Observer::check).
    pub(super) fn check(&self) -> Result<(), (&'static str, Wrong)> {
        let alone = |key, missing: &str| {
            Err((key, Wrong(format!("needs observer.scheduler.{missing}: give both or neither"))))
        };
        match (&self.cert.0, &self.key.0) {
            (Some(_), None) => alone("cert", "key"),
            (None, Some(_)) => alone("key", "cert"),
            _ => Ok(()),
        }
    }

    // The ranges of the settings fit the narrower types.
    pub(super) fn limits(&self) -> Limits {
        let Latency { min_attempts, floor, ratio, deviations, sustain, run, min_samples } = &self.latency;
        let latency = baseline::Limits {
            ratio_percent: ratio.as_percent() as u16,
            deviations: deviations.get() as u8,
            run: run.get() as u8,
            min_samples: min_samples.get(),
            floor: floor.as_ns() / US,
            ..baseline::Limits::DEFAULT
        };
        let latency = Sustained { limits: latency, sustain: sustain.get() };
        let Queue { floor, ratio, deviations, sustain, run, min_samples } = &self.queue;
        let queue = baseline::Limits {
            ratio_percent: ratio.as_percent() as u16,
            deviations: deviations.get() as u8,
            run: run.get() as u8,
            min_samples: min_samples.get(),
            floor: floor.get().into(),
            ..baseline::Limits::DEFAULT
        };
        let queue = Sustained { limits: queue, sustain: sustain.get() };
        let unschedulable = baseline::Limits { run: RUN, ..baseline::Limits::DEFAULT };
        Limits {
            min_attempts: min_attempts.get().into(),
            latency,
            queue,
            unschedulable,
            victims: Sustained { limits: unschedulable, sustain: 1 },
            unschedulable_after_ns: self.unschedulable_after.as_ns(),
            interval_ns: self.interval.as_ns(),
        }
    }
}

/// A URL with `https`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url(pub(super) Uri);

impl Value for Url {
    fn expected() -> String {
        format!("https://HOST:PORT/PATH, as in {LOCAL}")
    }

    fn form() -> Form {
        Form::Text(r"https://[^\s/?#@]+(/[^\s#]*)?".to_owned())
    }
}

impl FromStr for Url {
    type Err = Wrong;

    fn from_str(text: &str) -> Result<Self, Wrong> {
        let wrong = || Wrong(format!("`{}` is not {}", shown(text), Self::expected()));
        let uri: Uri = text.parse().map_err(|_| wrong())?;
        let is_known = |uri: &Uri| {
            let authority = uri.authority().is_some_and(|authority| !authority.as_str().contains('@'));
            uri.scheme() == Some(&Scheme::HTTPS)
                && uri.host().is_some_and(|host| !host.is_empty())
                && authority
        };
        if is_known(&uri) { Ok(Self(uri)) } else { Err(wrong()) }
    }
}

impl Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use tapio_service::setting::Node as _;

    use super::*;

    #[test]
    fn a_certificate_has_its_key() {
        let mut settings = Settings::default();
        assert_eq!(settings.check(), Ok(()));
        settings.assign("cert", "/tls.crt").unwrap();
        let (key, Wrong(why)) = settings.check().unwrap_err();
        assert_eq!((key, &*why), ("cert", "needs observer.scheduler.key: give both or neither"));
        settings.assign("key", "/tls.key").unwrap();
        assert_eq!(settings.check(), Ok(()));
    }

    #[test]
    fn only_https_is_a_url() {
        for right in [LOCAL, "https://scheduler.example/metrics", "https://[fd00::1]:10259/metrics?x=1"] {
            assert_eq!(right.parse::<Url>().unwrap().to_string(), right);
        }
        for wrong in [
            "http://127.0.0.1:10251/metrics",
            "127.0.0.1:10259",
            "",
            "https://",
            "https://u:p@h/metrics",
            "a b",
        ] {
            let Wrong(why) = wrong.parse::<Url>().unwrap_err();
            assert!(why.ends_with(&format!("is not https://HOST:PORT/PATH, as in {LOCAL}")), "{why}");
        }
    }
}
