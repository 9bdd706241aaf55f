//! Names and texts that are up to no good.

use crate::{
    browser::{PHONE, View, browser},
    facts::{alive, crashing},
    site::Site,
};

const SCRIPT: &str = "<script>window.hit=1</script><img src=x onerror=window.hit=2>\"'><b>";
const TURNED: &str = "web\u{202e}gnp.exe\u{2066}";
const COLOURED: &str = "\u{1b}[31mall is well\u{1b}[0m\u{7}\r\n";

#[tokio::test(flavor = "multi_thread")]
async fn whatever_a_name_is_it_is_shown_and_not_acted_on() {
    let browser = browser!("whatever_a_name_is_it_is_shown_and_not_acted_on");
    let long = "x".repeat(64 << 10);
    let mut facts = alive("worker-1", 200);
    facts.extend(crashing("shop", SCRIPT, 150, SCRIPT));
    facts.extend(crashing("shop", TURNED, 149, COLOURED));
    facts.extend(crashing(&format!("a/b?c#{SCRIPT}"), "..%2f..", 148, &long));
    facts.extend(crashing("shop", &"y".repeat(250), 147, &long));
    facts.extend(alive("worker-1", 0));
    let site = Site::with(&facts).await;
    browser.view(View { width: 320, ..PHONE }).await;
    let ids = site.incidents();
    assert!(ids.len() >= 4, "{ids:?}");
    let mut paths = vec!["/".to_owned(), "/changes".to_owned(), "/coverage".to_owned()];
    paths.extend(ids.iter().flat_map(|id| [format!("/incidents/{id}"), format!("/incidents/{id}/blast")]));
    browser.go(&site.url("/")).await;
    let mut text = String::new();
    let mut links = Vec::new();
    for path in &paths {
        browser.go(&site.url(path)).await;
        text += &browser.text("document.documentElement.innerHTML").await;
        text += &browser.shown().await;
        let all = browser
            .value("[...document.querySelectorAll('main a')].map((one) => one.getAttribute('href'))")
            .await;
        links.extend(all.as_array().unwrap().iter().map(|link| link.as_str().unwrap().to_owned()));
        harmless(&browser, path).await;
    }
    links.retain(|link| link.starts_with("/workloads/"));
    links.sort();
    links.dedup();
    assert!(links.len() >= 4, "{links:?}");
    for link in &links {
        browser.go(&site.url(link)).await;
        harmless(&browser, link).await;
        let shown = browser.shown().await;
        assert!(!shown.contains("No such object"), "{link}: {shown}");
        text += &shown;
    }
    for shown in ["<script>window.hit=1</script>", "web\\u{202e}gnp.exe\\u{2066}", "\\u{1b}[31mall is well"] {
        assert!(text.contains(shown), "{shown} is not shown");
    }
    let active = |c: char| c != '\n' && tapio_occurrence::printable::is_active(c);
    assert_eq!(text.chars().find(|c| active(*c)), None);
    // In a URL, too, which somebody sends to somebody.
    for path in [
        "/incidents/%3Cscript%3Ewindow.hit=1%3C%2Fscript%3E",
        "/?namespace=%3Cscript%3Ewindow.hit=1%3C/script%3E",
        "/?certainty=%3Cimg%20src=x%20onerror=window.hit=1%3E",
        "/workloads/a/b/%E2%80%AE%1b%3Cscript%3E",
    ] {
        browser.go(&site.url(path)).await;
        harmless(&browser, path).await;
    }
    browser.close().await;
}

async fn harmless(browser: &crate::browser::Browser, path: &str) {
    let state = browser.value(
        "[typeof window.hit, document.querySelectorAll('script').length, document.querySelectorAll('main img, main b b').length, \
         document.documentElement.scrollWidth]").await;
    assert_eq!(state, serde_json::json!(["undefined", 1, 0, 320]), "{path}");
    let bytes = browser.value("performance.getEntriesByType('navigation')[0].decodedBodySize").await;
    assert!(bytes.as_u64().unwrap() < 130_000, "{path}: {bytes} bytes");
    let said = browser.complaints().await;
    assert!(said.iter().all(|one| one.contains("404") || one.contains("400")), "{path}: {said:?}");
}
