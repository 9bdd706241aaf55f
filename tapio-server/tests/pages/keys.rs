//! Journeys by keyboard alone.

use crate::{
    browser::{Browser, DESK, ENTER, ESCAPE, TAB, browser},
    site::{SOON, Site},
};

async fn focused(browser: &Browser) -> String {
    browser.text("document.activeElement.id || document.activeElement.textContent.trim()").await
}

async fn path(browser: &Browser) -> String {
    browser.client.current_url().await.unwrap().path().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_gets_everywhere_by_single_keys() {
    let browser = browser!("one_gets_everywhere_by_single_keys");
    let site = Site::of("two").await;
    let ids = site.incidents();
    assert_eq!(ids.len(), 2);
    browser.view(DESK).await;
    browser.go(&site.url("/")).await;
    browser.press("j").await;
    let first = focused(&browser).await;
    browser.press("j").await;
    let second = focused(&browser).await;
    assert!(ids.contains(&first) && ids.contains(&second) && first != second, "{first} {second}");
    browser.press("k").await;
    assert_eq!(focused(&browser).await, first);
    browser.press(ENTER).await;
    browser.until(&format!("location.pathname === '/incidents/{first}'"), SOON).await;
    browser.press("e").await;
    assert!(browser.value("document.getElementById('evidence').open").await.as_bool().unwrap());
    // What is open is in the URL, which somebody else may get.
    browser.until("location.hash === '#evidence'", SOON).await;
    browser.client.refresh().await.unwrap();
    browser.until("document.getElementById('evidence').open", SOON).await;
    browser.press("ee").await;
    browser.press(ESCAPE).await;
    assert!(!browser.value("document.getElementById('evidence').open").await.as_bool().unwrap());
    browser.press("c").await;
    browser.until("document.querySelector('.first .copy').textContent === 'Copied'", SOON).await;
    browser.press("b").await;
    browser.until("location.pathname.endsWith('/blast')", SOON).await;
    browser.press("b").await;
    browser.until(&format!("location.pathname === '/incidents/{first}'"), SOON).await;
    for (key, to) in [("gc", "/changes"), ("gv", "/coverage"), ("gn", "/")] {
        browser.press(key).await;
        browser.until(&format!("location.pathname === '{to}'"), SOON).await;
    }
    browser.press("?").await;
    assert!(browser.value("document.getElementById('help').open").await.as_bool().unwrap());
    browser.press("/").await;
    assert!(browser.value("document.getElementById('filter').open").await.as_bool().unwrap());
    // In a field keys are what they are.
    browser.client.execute("document.querySelector('#filter select').focus()", Vec::new()).await.unwrap();
    browser.press("gc").await;
    assert_eq!(path(&browser).await, "/");
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn single_keys_can_be_switched_off_by_keyboard() {
    let browser = browser!("single_keys_can_be_switched_off_by_keyboard");
    let site = Site::of("limit").await;
    browser.view(DESK).await;
    browser.go(&site.url("/")).await;
    browser.press("?").await;
    // From the summary through the choices to the switch, and on to the button.
    let checkbox = "document.activeElement.name === 'keys'";
    for _ in 0..5 {
        browser.press(TAB).await;
        if browser.value(checkbox).await.as_bool().unwrap() {
            break;
        }
    }
    assert!(browser.value(checkbox).await.as_bool().unwrap());
    browser.press(" ").await;
    browser.press(TAB).await;
    browser.press(ENTER).await;
    browser.until("document.documentElement.dataset.keys === 'off'", SOON).await;
    for key in ["j", "?", "gc", "/"] {
        browser.press(key).await;
    }
    assert_eq!(path(&browser).await, "/");
    assert_eq!(browser.value("document.querySelectorAll('details[open]').length").await, 0);
    assert_eq!(browser.text("document.activeElement.tagName").await, "BODY");
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_is_reached_by_tab_and_the_focus_is_seen() {
    let browser = browser!("everything_is_reached_by_tab_and_the_focus_is_seen");
    let site = Site::of("limit").await;
    browser.view(DESK).await;
    for page in site.pages() {
        browser.go(&site.url(&page)).await;
        // Number each, so that each is known again.
        let count = "[...document.querySelectorAll('a, button, input, select, summary')]\
                     .filter((one) => one.checkVisibility())\
                     .map((one, nth) => (one.dataset.nth = nth)).length";
        let count = browser.value(count).await.as_u64().unwrap();
        assert!(count > 5, "{page}: {count}");
        let mut reached = std::collections::BTreeSet::new();
        for _ in 0..=count {
            browser.press(TAB).await;
            let style = browser
                .value(
                    "(() => { const one = document.activeElement, style = getComputedStyle(one), box = one.getBoundingClientRect(); \
                     return [one.dataset.nth ?? '', style.outlineStyle, parseFloat(style.outlineWidth), \
                     box.bottom > 0 && box.top < innerHeight] })()",
                )
                .await;
            let nth = style[0].as_str().unwrap().to_owned();
            if nth.is_empty() {
                break;
            }
            assert!(
                style[1] != "none" && style[2].as_f64().unwrap() >= 2.0 && style[3] == true,
                "{page}: {style}"
            );
            reached.insert(nth);
        }
        assert_eq!(reached.len() as u64, count, "{page}: {reached:?}");
    }
    browser.close().await;
}
