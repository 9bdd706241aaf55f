//! Without script everything is there but the freshness, which is a link.

use serde_json::json;

use crate::{
    browser::{PHONE, browser},
    site::{SOON, Site},
};

#[tokio::test(flavor = "multi_thread")]
async fn everything_can_be_read_and_chosen_without_script() {
    let browser = browser!("everything_can_be_read_and_chosen_without_script");
    let site = Site::of("limit").await;
    browser.view(PHONE).await;
    let mut with = Vec::new();
    let content = "[...document.querySelectorAll('main h1, main h2, main h3, main .text, main code')]\
                   .filter((one) => one.checkVisibility()).map((one) => one.textContent).join('\\n')";
    for path in site.pages() {
        browser.go(&site.url(&path)).await;
        browser.until("document.documentElement.classList.contains('script')", SOON).await;
        with.push(browser.text(content).await);
    }
    browser.devtools("Emulation.setScriptExecutionDisabled", json!({ "value": true })).await;
    for (path, with) in site.pages().into_iter().zip(with) {
        browser.go(&site.url(&path)).await;
        assert_eq!(browser.value("document.documentElement.classList.contains('script')").await, false);
        assert_eq!(browser.text(content).await, with, "{path}");
        assert_eq!(browser.value("document.querySelector('.reload').checkVisibility()").await, true);
        // Nothing that would do nothing.
        let copies =
            "[...document.querySelectorAll('[data-copy]')].filter((one) => one.checkVisibility()).length";
        assert_eq!(browser.value(copies).await, 0);
    }
    // A filter, a part that opens, and a choice.
    let find = |css| fantoccini::Locator::Css(css);
    browser.go(&site.url("/")).await;
    browser.client.find(find("#filter summary")).await.unwrap().click().await.unwrap();
    let select = browser.client.find(find("select[name=certainty]")).await.unwrap();
    select.select_by_value("inconclusive").await.unwrap();
    browser.client.find(find("#filter button")).await.unwrap().click().await.unwrap();
    browser.until("location.search.includes('certainty=inconclusive')", SOON).await;
    assert!(browser.shown().await.contains("No incident matches the filter"));
    browser.client.find(find("#help summary")).await.unwrap().click().await.unwrap();
    browser.client.find(find("[value=dark]")).await.unwrap().click().await.unwrap();
    browser.client.find(find("#help button")).await.unwrap().click().await.unwrap();
    browser.until("document.documentElement.dataset.theme === 'dark'", SOON).await;
    assert!(browser.client.current_url().await.unwrap().query().unwrap().contains("certainty=inconclusive"));
    browser.close().await;
}
