//! Pages stay fresh by themselves, and say when they are not.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
};

use crate::{
    browser::{DESK, browser},
    facts::{alive, crashing},
    site::{SOON, Site},
};

/// After so long without the server a page says so.
const STALE: Duration = Duration::from_secs(15);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Open,
    /// Nothing gets through, and nobody is told.
    Silent,
    /// Connections are reset.
    Cut,
}

/// The way from the browser to the server.
struct Proxy {
    address: SocketAddr,
    way: watch::Sender<Way>,
}

impl Proxy {
    async fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (way, _) = watch::channel(Way::Open);
        let here = way.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(pass(client, server, here.subscribe()));
            }
        });
        Self { address, way }
    }
}

async fn pass(mut client: TcpStream, server: SocketAddr, mut way: watch::Receiver<Way>) {
    if *way.borrow() == Way::Open {
        let mut server = TcpStream::connect(server).await.unwrap();
        tokio::select! {
            // An end of either is the end.
            _ = copy_bidirectional(&mut client, &mut server) => {}
            _ = way.wait_for(|way| *way != Way::Open) => {}
        }
    }
    let _ = way.wait_for(|way| *way != Way::Silent).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_incident_comes_by_itself_and_the_focus_stays() {
    let browser = browser!("a_new_incident_comes_by_itself_and_the_focus_stays");
    let site = Site::of("limit").await;
    browser.view(DESK).await;
    browser.go(&site.url("/")).await;
    let id = &site.incidents()[0];
    browser.press("j").await;
    browser
        .client
        .execute("window.here = 1; document.getElementById('filter').open = true", Vec::new())
        .await
        .unwrap();
    let said = "document.getElementById('said').textContent";
    assert_eq!(browser.text(said).await, "");
    let mut facts = crashing("bank", "ledger", 120, "back-off 5m0s");
    facts.extend(alive("worker-1", 0));
    site.take(&facts).await;
    let took =
        browser.until("document.querySelectorAll('main .list:not(.small) .title').length === 2", SOON).await;
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert_eq!(browser.value("window.here").await, 1, "the page was loaded anew");
    assert_eq!(browser.text("document.activeElement.id").await, *id);
    assert_eq!(browser.value("document.getElementById('filter').open").await, true);
    assert_eq!(browser.text(said).await, "2 open incidents");
    assert!(browser.shown().await.contains("ledger"));
    // The incident's own page, too.
    browser.go(&site.url(&format!("/incidents/{}", site.incidents()[0]))).await;
    assert!(!browser.shown().await.contains("2 times"));
    // The engine looks each 5 s, as facts have it.
    tokio::time::sleep(Duration::from_secs(6)).await;
    let mut facts = crashing("bank", "ledger", 5, "back-off 5m0s");
    facts.extend(alive("worker-1", 0));
    site.take(&facts).await;
    browser.until("document.querySelector('.chain').innerText.includes('2 times')", SOON).await;
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_is_cut_off_says_so_in_time() {
    let browser = browser!("a_page_that_is_cut_off_says_so_in_time");
    let site = Site::of("limit").await;
    let proxy = Proxy::to(site.server.api).await;
    browser.view(DESK).await;
    let is_stale = "!document.getElementById('stale').hidden";
    for way in [Way::Silent, Way::Cut] {
        browser.go(&format!("http://{}/", proxy.address)).await;
        // As long as there is a stream nothing is said.
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(14) {
            assert_eq!(browser.value(is_stale).await, false);
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        proxy.way.send_replace(way);
        let took = browser.until(is_stale, STALE + Duration::from_secs(5)).await;
        println!("{way:?}: stale after {took:?}");
        assert!(took <= STALE, "{way:?}: {took:?}");
        assert!(browser.shown().await.contains("Stale since"), "{}", browser.shown().await);
        assert_eq!(browser.violations().await, Vec::<String>::new());
        // What was known is still there.
        assert!(browser.shown().await.contains("payments"));
        proxy.way.send_replace(Way::Open);
        browser.until("document.getElementById('stale').hidden", Duration::from_secs(20)).await;
    }
    browser.close().await;
}
