//! Each page in light and dark, on a phone and on a desk: axe finds nothing, nothing comes from elsewhere, nothing is wider than
//! the screen.

use serde_json::json;

use crate::{
    browser::{DESK, PHONE, View, browser},
    site::Site,
};

/// Bytes of a page with its style and its script.
const MAX_BYTES: u64 = 150_000;

#[tokio::test(flavor = "multi_thread")]
async fn axe_finds_nothing_on_any_page() {
    let browser = browser!("axe_finds_nothing_on_any_page");
    let site = Site::of("limit").await;
    let mut wrong = Vec::new();
    for path in site.pages() {
        for (view, is_dark) in [(PHONE, false), (PHONE, true), (DESK, false), (DESK, true)] {
            browser.view(View { is_dark, ..view }).await;
            browser.go(&site.url(&path)).await;
            let open = "document.querySelectorAll('details').forEach((one) => { one.open = true })";
            browser.client.execute(open, Vec::new()).await.unwrap();
            let found = browser.violations().await;
            wrong.extend(found.into_iter().map(|one| format!("{path} {} {is_dark}: {one}", view.width)));
            let said = browser.complaints().await;
            wrong.extend(said.into_iter().map(|one| format!("{path}: the browser says {one}")));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_fit_and_take_nothing_from_elsewhere() {
    let browser = browser!("pages_fit_and_take_nothing_from_elsewhere");
    let site = Site::of("limit").await;
    for path in site.pages() {
        for width in [320, 360, 768, 1280] {
            browser.view(View { width, ..PHONE }).await;
            browser.go(&site.url(&path)).await;
            let open = "document.querySelectorAll('details').forEach((one) => { one.open = true })";
            browser.client.execute(open, Vec::new()).await.unwrap();
            let wide = browser.value("document.documentElement.scrollWidth").await;
            assert!(wide.as_u64().unwrap() <= u64::from(width), "{path} is {wide} wide on {width}");
        }
        // What is loaded: the document, and the rest by name, host and size without compression.
        let loaded = "(() => { const all = [...performance.getEntriesByType('navigation'), \
                      ...performance.getEntriesByType('resource')]; \
                      return { hosts: [...new Set(all.map((one) => new URL(one.name).host))], \
                      bytes: all.reduce((sum, one) => sum + one.decodedBodySize, 0) } })()";
        let loaded = browser.value(loaded).await;
        assert_eq!(loaded["hosts"], json!([site.server.api.to_string()]), "{path}");
        let bytes = loaded["bytes"].as_u64().unwrap();
        assert!((5_000..MAX_BYTES).contains(&bytes), "{path}: {bytes} bytes");
    }
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_answer_is_on_a_phone_without_scrolling() {
    let browser = browser!("the_first_answer_is_on_a_phone_without_scrolling");
    let site = Site::of("limit").await;
    browser.view(PHONE).await;
    let id = &site.incidents()[0];
    for (path, parts) in [
        // Of the start page also what to do.
        ("/".to_owned(), vec![".title", ".do .command", ".list .sure"]),
        (format!("/incidents/{id}"), vec!["h1", ".sure", ".chain .cause .text"]),
    ] {
        browser.go(&site.url(&path)).await;
        for part in parts {
            let bottom = format!("document.querySelector('main {part}').getBoundingClientRect().bottom");
            let bottom = browser.value(&bottom).await.as_f64().unwrap();
            assert!(bottom > 0.0 && bottom <= f64::from(PHONE.height), "{path}: {part} ends at {bottom}");
        }
    }
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn light_or_dark_can_be_chosen() {
    let browser = browser!("light_or_dark_can_be_chosen");
    let site = Site::of("limit").await;
    browser.view(View { is_dark: true, ..DESK }).await;
    browser.go(&site.url("/changes")).await;
    let ground = "getComputedStyle(document.body).backgroundColor";
    let dark = browser.text(ground).await;
    browser
        .client
        .execute(
            "document.querySelector('[value=light]').click(); \
        document.querySelector('#help form button').click()",
            Vec::new(),
        )
        .await
        .unwrap();
    browser.until("document.documentElement.dataset.theme === 'light'", crate::site::SOON).await;
    assert!(browser.client.current_url().await.unwrap().path() == "/changes");
    assert_ne!(browser.text(ground).await, dark);
    browser.view(DESK).await;
    let light = browser.text(ground).await;
    browser
        .client
        .execute(
            "document.querySelector('[value=system]').click(); \
        document.querySelector('#help form button').click()",
            Vec::new(),
        )
        .await
        .unwrap();
    browser.until("document.documentElement.dataset.theme === 'system'", crate::site::SOON).await;
    assert_eq!(browser.text(ground).await, light);
    browser.close().await;
}
