//! Five hundred open incidents.

use crate::{
    browser::{PHONE, browser},
    facts::{alive, crashing},
    site::Site,
};

const MANY: usize = 500;

#[tokio::test(flavor = "multi_thread")]
async fn five_hundred_incidents_are_a_small_page_that_follows_each_key() {
    let browser = browser!("five_hundred_incidents_are_a_small_page_that_follows_each_key");
    let mut facts = alive("worker-1", 200);
    for nth in 0..MANY {
        facts.extend(crashing(
            &format!("team-{}", nth % 20),
            &format!("service-{nth}"),
            150,
            "back-off 5m0s",
        ));
    }
    facts.extend(alive("worker-1", 0));
    let site = Site::with(&facts).await;
    assert_eq!(site.incidents().len(), MANY);
    browser.view(PHONE).await;
    browser.go(&site.url("/")).await;
    assert!(browser.shown().await.contains("500 open incidents"));
    let bytes = browser.value("performance.getEntriesByType('navigation')[0].decodedBodySize").await;
    assert!(bytes.as_u64().unwrap() < 130_000, "{bytes} bytes");
    // From the key to the second frame after it.
    let watch = "window.took = []; document.addEventListener('keydown', (event) => requestAnimationFrame(() => \
                 requestAnimationFrame(() => took.push(performance.now() - event.timeStamp))), true)";
    browser.client.execute(watch, Vec::new()).await.unwrap();
    for _ in 0..30 {
        browser.press("j").await;
    }
    browser.until("took.length === 30", crate::site::SOON).await;
    let median = browser.value("took.sort((a, b) => a - b)[15]").await.as_f64().unwrap();
    let took = "(({ requestStart, responseEnd }) => responseEnd - requestStart)(performance.getEntriesByType('navigation')[0])";
    let took = browser.value(took).await.as_f64().unwrap();
    println!("{bytes} bytes in {took:.0} ms; {median:.0} ms from a key to the second frame");
    assert!(median < 100.0, "{median} ms");
    assert_eq!(
        browser.value("[...document.querySelectorAll('[data-item]')].indexOf(document.activeElement)").await,
        29
    );
    // All of them can be reached, each once.
    let mut seen = std::collections::BTreeSet::new();
    for page in 1..=10 {
        let items = browser
            .value("[...document.querySelectorAll('main .list:not(.small) .title a')].map((one) => one.id)")
            .await;
        seen.extend(items.as_array().unwrap().iter().map(|id| id.as_str().unwrap().to_owned()));
        if page < 10 {
            browser.client.execute("document.querySelector('[rel=next]').click()", Vec::new()).await.unwrap();
            browser.until(&format!("location.search === '?page={}'", page + 1), crate::site::SOON).await;
        }
    }
    assert_eq!(seen.len(), MANY);
    browser.go(&site.url("/?namespace=team-7&certainty=inconclusive")).await;
    assert!(browser.shown().await.contains("25 of 500 match the filter"), "{}", browser.shown().await);
    browser.close().await;
}
