//! Where there is nothing to see, a page says why. The reasons do not look the same.

use std::collections::BTreeSet;

use tapio_occurrence::kubernetes::Object;

use crate::{
    browser::{PHONE, browser},
    facts::{alive, now_ns, portti, recorded, reference},
    site::Site,
};

#[tokio::test(flavor = "multi_thread")]
async fn the_four_empty_states_are_different_and_accessible() {
    let browser = browser!("the_four_empty_states_are_different_and_accessible");
    browser.view(PHONE).await;
    let empty = Site::empty();
    let mut facts = recorded("healthy", 1);
    facts.extend(alive("node", 0));
    let well = Site::with(&facts).await;
    let failing = Site::of("limit").await;
    // A node that nobody watches.
    let mut node = reference("Node", "", "worker-9");
    node.namespace = None;
    let object = Object { object: node, created_unix_ns: Some(now_ns()), ..Object::default() };
    facts.push(portti(&object, 0, ""));
    let blind = Site::with(&facts).await;
    let mut headings = BTreeSet::new();
    for (site, path, id, says) in [
        (&empty, "/", "unknown", "no facts have arrived yet: check that the agents have `polku` set"),
        (&well, "/", "well", "Everything that is watched looks normal: 1 of 1 nodes"),
        (&failing, "/?namespace=elsewhere", "filtered", "0 of 1 open incidents match."),
        (&blind, "/", "blind", "no agent on worker-9"),
        (&empty, "/changes", "unknown", "no facts have arrived yet"),
        (&failing, "/changes?kind=Secret", "filtered", "changes match."),
    ] {
        browser.go(&site.url(path)).await;
        let shown = browser.text(&format!("document.querySelector('.empty#{id}').innerText")).await;
        assert!(shown.contains(says), "{path} {id}: {shown}");
        headings.insert(shown.lines().next().unwrap().to_owned());
        assert_eq!(browser.value("document.querySelectorAll('.empty').length").await, 1);
        assert_eq!(browser.violations().await, Vec::<String>::new(), "{path} {id}");
    }
    assert!(headings.len() >= 4, "{headings:?}");
    // Who is blind is not told that all is well.
    browser.go(&blind.url("/")).await;
    assert!(!browser.shown().await.contains("looks normal"));
    browser.close().await;
}
