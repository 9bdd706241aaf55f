//! The result of a request: accepted, to be retried, or refused, by the rules of
//! <https://opentelemetry.io/docs/specs/otlp/#failures>.

use std::time::{Duration, SystemTime};

use http::{HeaderMap, header, response::Parts};
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceResponse;
use prost::Message as _;
use tapio_service::setting::shown;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::{
    super::{About, connection::Target},
    Trouble,
    exchange::ANSWER_BYTES,
};

/// The longest pause that a receiver may ask for. A wrong clock must not stop delivery for good.
pub(super) const MOST_PATIENCE: Duration = Duration::from_secs(300);

/// The result of a request.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Answer {
    /// The receiver took all but `rejected` records, which it would refuse again. `warning` is its complaint,
    /// if any.
    Taken { rejected: usize, warning: Option<String> },
    /// The receiver took nothing now: it is temporarily down, or an operator has to correct the
    /// configuration. Retry no earlier than `after`, if it asks for that.
    Later { why: Trouble, after: Option<Duration> },
    /// The receiver took nothing, and would refuse the same again because of its content or its size.
    Refused(Trouble),
}

impl Answer {
    pub(super) fn of_response(response: ExportLogsServiceResponse) -> Self {
        let partial = response.partial_success.unwrap_or_default();
        let rejected = usize::try_from(partial.rejected_log_records).unwrap_or_default();
        let said = shown(&partial.error_message);
        let warning = (rejected > 0 || !said.is_empty()).then(|| format!("takes a part only ({said})"));
        Self::Taken { rejected, warning }
    }

    /// A success with an unreadable message.
    fn unread(why: &str) -> Self {
        let warning = format!("its answer cannot be read, nor what it refused: {why}");
        Self::Taken { rejected: 0, warning: Some(warning) }
    }

    /// The result of a gRPC status other than OK.
    pub(super) fn of_grpc(status: &Status, target: &Target) -> Self {
        let info = status.get_details_retry_info();
        let after = info.as_ref().and_then(|info| info.retry_delay).map(|delay| delay.min(MOST_PATIENCE));
        let why = Trouble::of_grpc(status, target);
        match (status.code(), why.about) {
            (_, About::Configuration) => Self::Later { why, after },
            // A status with retry information is about load, not about size.
            (_, About::Size) if info.is_none() => Self::Refused(why),
            (
                Code::Cancelled
                | Code::DeadlineExceeded
                | Code::Aborted
                | Code::OutOfRange
                | Code::ResourceExhausted
                | Code::Unavailable
                | Code::DataLoss,
                _,
            ) => Self::Later { why, after },
            // Collectors return INTERNAL for data that they will never accept.
            _ => Self::Refused(why),
        }
    }

    /// The result of an answer to gRPC that is not gRPC. A proxy sent it, which knows nothing about the
    /// content of the request.
    pub(super) fn of_no_grpc(head: &Parts, target: &Target, now: SystemTime) -> Self {
        if head.status.is_success() {
            return Self::Later { why: not_otlp("it is no answer of gRPC"), after: None };
        }
        match Self::of_http(head.status.as_u16(), &head.headers, Some(b""), target, now) {
            Self::Refused(why) if why.about != About::Size => Self::Later { why, after: None },
            answer => answer,
        }
    }

    /// The result of an HTTP answer, whose body is missing if it was too long. A success counts as one
    /// whatever its body says, and is not sent again.
    pub(super) fn of_http(
        status: u16,
        headers: &HeaderMap,
        body: Option<&[u8]>,
        target: &Target,
        now: SystemTime,
    ) -> Self {
        let form = headers.get(header::CONTENT_TYPE).and_then(|form| form.to_str().ok()).unwrap_or_default();
        let is_protobuf = form.starts_with("application/x-protobuf");
        match status {
            200..300 if is_protobuf => match body.map(ExportLogsServiceResponse::decode) {
                Some(Ok(response)) => Self::of_response(response),
                Some(Err(error)) => Self::unread(&error.to_string()),
                None => Self::unread(&format!("it has more than {ANSWER_BYTES} bytes")),
            },
            // Some receivers answer with no more than that.
            200..300 if body.is_some_and(<[u8]>::is_empty) || form.starts_with("application/json") => {
                Self::Taken { rejected: 0, warning: None }
            }
            200..300 => {
                Self::Later { why: not_otlp(&format!("its content type is `{}`", shown(form))), after: None }
            }
            _ => {
                let body = body.unwrap_or(b"a long answer");
                let said = if is_protobuf {
                    tonic_types::Status::decode(body).map(|status| status.message).unwrap_or_default()
                } else {
                    String::from_utf8_lossy(body).lines().next().unwrap_or_default().to_owned()
                };
                let why = Trouble::of_status(status, &shown(&said), target);
                match (status, why.about) {
                    // Collectors return 500 for data that they will never accept. By the OTLP rules it is not
                    // retried.
                    (500, _) | (_, About::Content | About::Size) => Self::Refused(why),
                    _ => Self::Later { why, after: retry_after(headers, now) },
                }
            }
        }
    }
}

/// Parses Retry-After: seconds or a date, RFC 9110, section 10.2.3.
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    let after = match text.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        // A date in the past means now.
        Err(_) => httpdate::parse_http_date(text).ok()?.duration_since(now).unwrap_or_default(),
    };
    Some(after.min(MOST_PATIENCE))
}

fn not_otlp(why: &str) -> Trouble {
    Trouble::stranger("OTLP", why)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use tonic_types::ErrorDetails;

    use super::{
        super::{Settings, target},
        *,
    };
    use tapio_service::setting::Node as _;

    fn collector() -> Target {
        let mut settings = Settings::default();
        settings.assign("endpoint", "http://c:4318/v1/logs?token=secret").unwrap();
        target(&settings).unwrap()
    }

    fn http(status: u16, headers: &[(header::HeaderName, &'static str)], body: &[u8]) -> Answer {
        of_http(status, headers, Some(body))
    }

    fn of_http(status: u16, headers: &[(header::HeaderName, &'static str)], body: Option<&[u8]>) -> Answer {
        let headers =
            headers.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value))).collect();
        let now = httpdate::parse_http_date("Sat, 21 Nov 2026 12:00:00 GMT").unwrap();
        Answer::of_http(status, &headers, body, &collector(), now)
    }

    fn seconds(seconds: u64) -> Option<Duration> {
        Some(Duration::from_secs(seconds))
    }

    #[test]
    fn what_passes_is_sent_again_when_it_is_asked_for() {
        for (status, value, expected) in [
            (408, None, None),
            (425, None, None),
            (507, None, None),
            (429, Some("7"), seconds(7)),
            (503, Some("Sat, 21 Nov 2026 12:01:30 GMT"), seconds(90)),
            (503, Some("Sat, 21 Nov 2026 11:00:00 GMT"), seconds(0)),
            (502, Some("soon"), None),
            (504, None, None),
            (503, Some("86400"), seconds(300)),
        ] {
            let headers: Vec<_> = value.map(|value| (header::RETRY_AFTER, value)).into_iter().collect();
            match http(status, &headers, b"busy\nvery") {
                Answer::Later { why, after } => {
                    assert_eq!((after, why.about), (expected, About::Passing), "{status} {value:?}");
                    assert_eq!(why.what, format!("answers with status {status} (busy)"));
                }
                other => panic!("{status}: {other:?}"),
            }
        }
    }

    #[test]
    fn what_an_operator_has_to_correct_is_kept_with_a_remedy() {
        for (status, what, remedy) in [
            (302, "has moved", "new URL"),
            (401, "does not let the agent in", "headers"),
            (403, "does not let the agent in", "headers"),
            (404, "nothing at /v1/logs", "path"),
            (405, "takes no logs by OTLP at /v1/logs", "path"),
            (407, "a proxy on the way", "password"),
            (415, "takes no logs by OTLP at /v1/logs", "path"),
        ] {
            match http(status, &[], b"") {
                Answer::Later {
                    why: Trouble { what: found, remedy: Some(helps), about: About::Configuration },
                    after: None,
                } => {
                    assert!(found.contains(what) && helps.contains(remedy), "{status}: {found}; {helps}");
                    assert!(!found.contains("secret"), "{found}");
                }
                other => panic!("{status}: {other:?}"),
            }
        }
        for status in [402, 409, 410, 421, 431, 501] {
            let answer = http(status, &[], b"");
            let Answer::Later { why, .. } = &answer else { panic!("{status}: {answer:?}") };
            assert_eq!(why.about, About::Configuration, "{status}");
        }
    }

    #[test]
    fn what_is_never_taken_is_refused() {
        for (status, about) in
            [(400, About::Content), (422, About::Content), (413, About::Size), (500, About::Passing)]
        {
            match http(status, &[], b"bad") {
                Answer::Refused(why) => assert_eq!(why.about, about, "{status}"),
                other => panic!("{status}: {other:?}"),
            }
        }
        let status = tonic_types::Status { message: "no such tenant".to_owned(), ..Default::default() };
        let protobuf = [(header::CONTENT_TYPE, "application/x-protobuf")];
        match http(400, &protobuf, &status.encode_to_vec()) {
            Answer::Refused(trouble) => assert_eq!(trouble.what, "answers with status 400 (no such tenant)"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn success_is_what_otlp_says_it_is() {
        let taken = Answer::Taken { rejected: 0, warning: None };
        let protobuf = [(header::CONTENT_TYPE, "application/x-protobuf")];
        assert_eq!(http(200, &protobuf, b""), taken);
        assert_eq!(http(202, &[], b""), taken);
        assert_eq!(http(200, &[(header::CONTENT_TYPE, "application/json")], b"{}"), taken);
        assert!(matches!(http(200, &[(header::CONTENT_TYPE, "text/html")], b"<html>"), Answer::Later { .. }));
        for (answer, why) in [
            (http(200, &protobuf, b"<html>"), "failed to decode"),
            (of_http(200, &protobuf, None), "more than 65536 bytes"),
        ] {
            match answer {
                Answer::Taken { rejected: 0, warning: Some(warning) } => {
                    assert!(
                        warning.starts_with("its answer cannot be read") && warning.contains(why),
                        "{warning}"
                    );
                }
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn statuses_of_grpc() {
        for code in (1..=16).map(Code::from_i32) {
            let again = matches!(
                code,
                Code::Cancelled
                    | Code::DeadlineExceeded
                    | Code::Aborted
                    | Code::OutOfRange
                    | Code::ResourceExhausted
                    | Code::Unavailable
                    | Code::DataLoss
            );
            let configuration = matches!(
                code,
                Code::Unauthenticated | Code::PermissionDenied | Code::Unimplemented | Code::NotFound
            );
            let again = again || configuration;
            let answer = Answer::of_grpc(&Status::new(code, "x"), &collector());
            assert_eq!(matches!(answer, Answer::Later { after: None, .. }), again, "{code:?}: {answer:?}");
            assert_eq!(matches!(answer, Answer::Refused(_)), !again, "{code:?}");
            let held = matches!(&answer, Answer::Later { why, .. } if why.about == About::Configuration);
            assert_eq!(held, configuration, "{code:?}: {answer:?}");
        }
        for (code, said) in [
            (Code::ResourceExhausted, "grpc: received message larger than max (4194305 vs. 4194304)"),
            (Code::ResourceExhausted, "Received message larger than max (5 vs 4)"),
            (Code::ResourceExhausted, "gRPC message exceeds maximum size 4194304: 5000000"),
            (Code::ResourceExhausted, "Received message exceeds the maximum configured message size."),
            (
                Code::OutOfRange,
                "Error, decoded message length too large: found 9 bytes, the limit is: 4 bytes",
            ),
        ] {
            let answer = Answer::of_grpc(&Status::new(code, said), &collector());
            assert!(
                matches!(&answer, Answer::Refused(why) if why.about == About::Size),
                "{said}: {answer:?}"
            );
        }
        for code in [Code::ResourceExhausted, Code::Unavailable] {
            let details = ErrorDetails::with_retry_info(seconds(7));
            let answer = Answer::of_grpc(&Status::with_error_details(code, "x", details), &collector());
            assert!(
                matches!(&answer, Answer::Later { after, .. } if *after == seconds(7)),
                "{code:?}: {answer:?}"
            );
        }
    }
}
