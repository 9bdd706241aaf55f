//! With TLS, without, and with disagreement between the two sides: each case has a distinct message.

use std::{fs, path::Path, time::Duration};

use tapio_delivery::{State, Trouble};

use crate::{
    PROTOCOLS,
    agent::{Agent, otlp, until},
    certificates::Authority,
    receiver::Receiver,
};

const WITHIN: Duration = Duration::from_secs(10);

fn shown(path: &Path) -> String {
    path.display().to_string()
}

#[tokio::test]
async fn both_sides_of_every_disagreement() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str| directory.path().join(name);
    fs::write(file("ours"), ours.pem()).unwrap();
    ours.client(&file("our-client"), &file("our-key"));
    theirs.client(&file("their-client"), &file("their-key"));
    let (ca, ours_crt, ours_key) =
        (shown(&file("ours")), shown(&file("our-client")), shown(&file("our-key")));
    let (theirs_crt, theirs_key) = (shown(&file("their-client")), shown(&file("their-key")));
    let trust = ("certificate", ca.as_str());
    let own = [("client_certificate", ours_crt.as_str()), ("client_key", ours_key.as_str())];
    let foreign = [("client_certificate", theirs_crt.as_str()), ("client_key", theirs_key.as_str())];

    for (protocol, is_grpc) in PROTOCOLS {
        let alpn = if is_grpc { "h2" } else { "http/1.1" };
        let name = "localhost";
        let plain = Receiver::start(is_grpc, None).await;
        let good = Receiver::start(is_grpc, Some(ours.server(name, &[alpn], None))).await;
        let silent = Receiver::start(is_grpc, Some(ours.server(name, &[], None))).await;
        let strange = Receiver::start(is_grpc, Some(theirs.server(name, &[alpn], None))).await;
        let authority = Receiver::start(is_grpc, Some(ours.itself(&[alpn]))).await;
        let elsewhere = Receiver::start(is_grpc, Some(ours.server("collector.example", &[alpn], None))).await;
        let mutual = Receiver::start(is_grpc, Some(ours.server(name, &[alpn], Some(&ours)))).await;
        let other = Receiver::start(!is_grpc, None).await;
        let other_tls = Receiver::start(!is_grpc, Some(ours.server(name, &[], None))).await;
        let http1_alpn = Receiver::start(false, Some(ours.server(name, &["http/1.1"], None))).await;
        // Some servers just close a connection of the other HTTP version.
        let wrong_protocol = if is_grpc { "HTTP/2" } else { "HTTP/" };
        let mut cases = vec![
            ("http", &plain, vec![], None),
            ("https", &good, vec![trust], None),
            ("https", &silent, vec![trust], None),
            ("https", &mutual, vec![trust, own[0], own[1]], None),
            ("https", &strange, vec![trust], Some(("authority that is not trusted", "otlp.certificate"))),
            (
                "https",
                &good,
                vec![],
                Some(("authority that is not trusted", "OTEL_EXPORTER_OTLP_CERTIFICATE")),
            ),
            ("https", &authority, vec![trust], Some(("is an authority's own", "CA:FALSE"))),
            ("https", &elsewhere, vec![trust], Some(("is not for `localhost`, but for", "write a name"))),
            ("https", &plain, vec![trust], Some(("TLS", "write http://localhost:"))),
            ("http", &good, vec![], Some(("wants TLS", "write https://localhost:"))),
            ("https", &mutual, vec![trust], Some(("wants a certificate of the agent", "otlp.client_key"))),
            (
                "https",
                &mutual,
                vec![trust, foreign[0], foreign[1]],
                Some(("refuses the agent's certificate", "otlp.client_certificate")),
            ),
            ("http", &other, vec![], Some((wrong_protocol, "otlp.protocol"))),
            ("https", &other_tls, vec![trust], Some((wrong_protocol, "otlp.protocol"))),
        ];
        if is_grpc {
            cases.push(("https", &http1_alpn, vec![trust], Some(("speaks HTTP/1 only", "http/protobuf"))));
        }
        for (scheme, receiver, more, expected) in cases {
            let endpoint = format!("{scheme}://localhost:{}", receiver.address.port());
            let keys = [&[("endpoint", endpoint.as_str()), ("protocol", protocol)], &more[..]].concat();
            let asked = otlp(&keys).ask(WITHIN).await;
            match (asked, expected) {
                (Ok(()), None) => {}
                (Err(Trouble { what, remedy: Some(remedy), .. }), Some((said, helps)))
                    if what.contains(said) && remedy.contains(helps) => {}
                (found, _) => panic!("{protocol} {keys:?}: {found:?}, not {expected:?}"),
            }
        }
    }
}

/// The CA file is corrected while the agent runs.
#[tokio::test]
async fn a_certificate_that_is_corrected_is_used_without_a_restart() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("ca");
    for (protocol, is_grpc) in PROTOCOLS {
        fs::write(&file, theirs.pem()).unwrap();
        let receiver = Receiver::start(is_grpc, Some(ours.server("localhost", &[], None))).await;
        let endpoint = format!("https://localhost:{}", receiver.address.port());
        let mut agent =
            Agent::new(&[("endpoint", &endpoint), ("protocol", protocol), ("certificate", &shown(&file))]);
        let why = agent.retrying().await;
        assert!(why.contains("authority that is not trusted here"), "{why}");
        fs::write(&file, "no certificate").unwrap();
        until(|| agent.status().state.to_string(), |state| state.contains("there is no certificate in it"))
            .await;
        fs::write(&file, ours.pem()).unwrap();
        let ledger = agent.settled().await;
        assert_eq!((ledger.sent, ledger.rejected), (1, 0));
        until(|| agent.status().state, |state| *state == State::Ok).await;
    }
}

#[test]
fn files_that_cannot_be_used_are_refused_at_the_start() {
    let directory = tempfile::tempdir().unwrap();
    let garbage = directory.path().join("garbage");
    fs::write(&garbage, "-----BEGIN CERTIFICATE-----\n????\n-----END CERTIFICATE-----\n").unwrap();
    let absent = shown(&directory.path().join("absent"));
    for (keys, why) in [
        (vec![("certificate", absent.clone())], "otlp.certificate: "),
        (vec![("certificate", shown(&garbage))], "otlp.certificate: "),
        (
            vec![("client_certificate", absent.clone()), ("client_key", absent.clone())],
            "otlp.client_certificate: ",
        ),
    ] {
        let mut all = vec![("endpoint", "https://collector:4318")];
        all.extend(keys.iter().map(|(key, text)| (*key, text.as_str())));
        let settings = crate::agent::settings(&all);
        let error = tapio_delivery::otlp::Otlp::new(&settings, false).unwrap_err().to_string();
        assert!(error.starts_with(why) && error.contains(&keys[0].1), "{error}");
        // Without TLS none of its settings is required.
        all[0] = ("endpoint", "http://collector:4318");
        assert!(tapio_delivery::otlp::Otlp::new(&crate::agent::settings(&all), false).is_ok());
    }
}
