use std::{
    io::{Read as _, Write as _},
    net::TcpListener,
    thread,
};

use tapio_occurrence::samples::occurrence as sample;
use tapio_service::setting::Node as _;

use super::*;

fn otlp(endpoint: &str) -> Otlp {
    let mut settings = Settings::default();
    settings.assign("endpoint", endpoint).unwrap();
    Otlp::new(&settings, false).unwrap().unwrap()
}

/// Answers one request with this text.
fn answering(answer: &'static str) -> (String, thread::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let thread = thread::spawn(move || {
        let (mut tcp, _) = listener.accept().unwrap();
        let mut buffer = [0; 4096];
        let _ = tcp.read(&mut buffer).unwrap();
        tcp.write_all(answer.as_bytes()).unwrap();
    });
    (url, thread)
}

#[tokio::test]
async fn what_the_receiver_asks_for_is_remembered() {
    let busy = "HTTP/1.1 503 Busy\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n";
    let (url, server) = answering(busy);
    let mut otlp = otlp(&format!("{url}/v1/logs?token=secret"));
    otlp.connect().await.unwrap();
    let start = Instant::now();
    let Err(Failure::Retry(why)) = otlp.deliver(&[Arc::new(sample())]).await else { panic!("not retried") };
    assert_eq!(why, format!("{url}/v1/logs answers with status 503"), "a query may be a secret");
    assert!(otlp.not_before.unwrap() >= start + Duration::from_secs(7));
    server.join().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_receiver_that_asks_for_time_is_left_alone_for_it() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut otlp = otlp(&format!("http://{}", listener.local_addr().unwrap()));
    let due = Instant::now() + Duration::from_secs(7);
    otlp.not_before = Some(due);
    let early = timeout(Duration::from_millis(6_999), otlp.connect()).await;
    assert!(early.is_err(), "{early:?}");
    assert_eq!(otlp.not_before, Some(due), "also where it was interrupted");
    // Whether a connection exists at that point does not matter here.
    let _ = otlp.connect().await;
    assert!(Instant::now() >= due);
    assert_eq!(otlp.not_before, None);
}

#[test]
fn without_an_endpoint_there_is_no_sink() {
    assert!(Otlp::new(&Settings::default(), false).unwrap().is_none());
}
