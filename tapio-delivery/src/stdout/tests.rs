use std::{
    pin::Pin,
    sync::Mutex,
    task::{Context, Poll},
};

use tapio_occurrence::{
    PeerNames, Severity, Workload,
    samples::{HOSTILE, is_harmless, occurrence as sample},
};

use super::*;
use crate::{Ledger, Sinks, State, Verdict};

/// Collects the output; after `most` bytes it fails like a closed pipe.
#[derive(Clone)]
struct Screen {
    written: Arc<Mutex<Vec<u8>>>,
    most: usize,
}

impl Screen {
    fn new() -> Self {
        Self { written: Arc::default(), most: usize::MAX }
    }

    fn text(&self) -> String {
        String::from_utf8(self.written.lock().unwrap().clone()).unwrap()
    }
}

impl AsyncWrite for Screen {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut written = self.written.lock().unwrap();
        if written.len() + bytes.len() > self.most {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        written.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[tokio::test]
async fn json_is_one_line_each() {
    let screen = Screen::new();
    let mut stdout = Stdout::json_to(screen.clone());
    let batch = [Arc::new(sample()), Arc::new(sample())];
    let receipt = stdout.deliver(&batch).await.unwrap();
    assert_eq!(receipt.verdicts, [Verdict::Taken; 2]);
    let text = screen.text();
    assert!(text.ends_with("}\n"));
    assert_eq!(text.lines().count(), 2);
    for (line, occurrence) in text.lines().zip(&batch) {
        assert_eq!(line, serde_json::to_string(occurrence).unwrap());
    }
}

#[tokio::test]
async fn a_reader_that_has_gone_ends_the_sink() {
    let screen = Screen { most: 700, ..Screen::new() };
    let mut sinks = Sinks::new(Arc::default(), 8);
    sinks.add(Stdout::json_to(screen.clone()));
    for _ in 0..5 {
        sinks.send(Arc::new(sample()));
    }
    assert_eq!(sinks.ended().await, "the reader of standard output has gone");
    let Ledger { received, queued, .. } = sinks.status()[0].ledger;
    assert_eq!((received, queued), (5, 0));
    assert!(sinks.status()[0].ledger.balanced());
}

#[tokio::test]
async fn the_readable_form() {
    let screen = Screen::new();
    let mut stdout = Stdout::pretty_to(screen.clone(), false, None);
    stdout.deliver(&[Arc::new(sample())]).await.unwrap();
    assert_eq!(
        screen.text(),
        "02:18:18.123 WARN  network.rtt_spike checkout-7d9f: RTT to redis.default:6379 is 41 ms, 8.2 times its \
         normal 5 ms\n\
         \x20                  shop/checkout-7d9f-x2x/app · checkout[4242] · redis.default:6379 (10.0.3.7) · \
         rtt 41 ms · direction outbound · local address 10.0.1.2 · local port 40312 · normal 5 ms ± 400 µs, \
         now 8.2 times\n"
    );
}

#[tokio::test]
async fn colour_and_nothing_that_a_process_wrote() {
    let screen = Screen::new();
    let mut stdout = Stdout::pretty_to(screen.clone(), true, None);
    let mut occurrence = sample();
    occurrence.severity = Severity::Error;
    occurrence.message = "\x1b]0;pwned\x07 connects".to_owned();
    occurrence.process.as_mut().unwrap().comm = "\x1b[2Jx\n".to_owned();
    stdout.deliver(&[Arc::new(occurrence)]).await.unwrap();
    let text = screen.text();
    assert!(text.contains("\x1b[31mERROR\x1b[0m \x1b[1mnetwork.rtt_spike\x1b[0m"), "{text:?}");
    assert!(text.contains("\\u{1b}]0;pwned\\u{7} connects\n"), "{text:?}");
    assert!(text.contains("\\u{1b}[2Jx\\n[4242]"), "{text:?}");
}

/// Names from any source are made printable: process, pod, peer or unit.
#[tokio::test]
async fn nothing_that_others_named_reaches_the_terminal_as_it_is() {
    let hostile = || Some(HOSTILE.to_owned());
    let workload =
        Workload { namespace: hostile(), pod: hostile(), container: hostile(), ..Workload::default() };
    let names = PeerNames { namespace: hostile(), service: hostile(), ..PeerNames::default() };
    let mut occurrence = sample();
    occurrence.message = HOSTILE.to_owned();
    occurrence.process.as_mut().unwrap().comm = HOSTILE.to_owned();
    occurrence.peer.as_mut().unwrap().names = Some(Arc::new(names));
    occurrence.data.push("comm", HOSTILE);
    occurrence.data.push("noisy_neighbour", Arc::new(workload.clone()));
    occurrence.workload = Some(Arc::new(workload));
    let occurrence = Arc::new(occurrence);
    for mut stdout in [Stdout::pretty_to(Screen::new(), false, None), Stdout::json_to(Screen::new())] {
        stdout.deliver(&[Arc::clone(&occurrence)]).await.unwrap();
        let text = stdout.out.text();
        assert!(is_harmless(&text), "{text:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_status_line_stays_below() {
    let screen = Screen::new();
    let (feed, status_line) = watch::channel(StatusLine { seen: 1000, keys: 3, kept: 0, sent: 0 });
    let mut stdout = Stdout::pretty_to(screen.clone(), false, Some(status_line));
    let first = "\r\x1b[2K0 readings/s · 3 destinations · 0 kept · 0 sent\r";
    let second = "\r\x1b[2K12.3 k readings/s · 214 destinations · 1 kept · 1 sent\r";

    let _ = tokio::time::timeout(STATUS_INTERVAL / 2, stdout.idle()).await;
    assert_eq!(screen.text(), first);
    feed.send_replace(StatusLine { seen: 13_345, keys: 214, kept: 1, sent: 1 });
    let _ = tokio::time::timeout(STATUS_INTERVAL, stdout.idle()).await;
    assert_eq!(screen.text(), format!("{first}{second}"));

    screen.written.lock().unwrap().clear();
    stdout.deliver(&[Arc::new(sample())]).await.unwrap();
    let text = screen.text();
    assert!(text.starts_with("\r\x1b[2K02:18:18.123 "), "{text:?}");
    assert!(text.ends_with(&format!("\n{}", second.trim_start_matches("\r\x1b[2K"))), "{text:?}");
    stdout.close().await;
    assert!(screen.text().ends_with("\r\r\x1b[2K"));
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_does_not_read_is_said_until_it_does() {
    let (out, mut reader) = tokio::io::duplex(64);
    let mut sinks = Sinks::new(Arc::default(), 8);
    sinks.add(Stdout::json_to(out));
    sinks.send(Arc::new(sample()));
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(sinks.status()[0].state, State::Ok);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let stalled = sinks.status().remove(0);
    assert!(
        stalled.state.to_string().starts_with("stalled(the reader of standard output does not read"),
        "{stalled:?}"
    );
    assert_eq!((stalled.state.label(), stalled.ledger.queued, stalled.ledger.sent), ("stalled", 1, 0));
    let reading = tokio::spawn(async move {
        let mut text = Vec::new();
        tokio::io::AsyncReadExt::read_to_end(&mut reader, &mut text).await.unwrap();
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    let well = sinks.status().remove(0);
    assert_eq!((well.state, well.ledger.sent, well.ledger.queued), (State::Ok, 1, 0));
    sinks.drain(Duration::from_secs(1)).await;
    reading.await.unwrap();
}
