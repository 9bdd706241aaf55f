use super::*;

#[test]
fn words_are_what_may_be_a_name() {
    let found = |text| words(text).map(Cow::into_owned).collect::<Vec<_>>();
    assert_eq!(found("shop/payments (pay): 47 times"), ["shop", "payments", "pay", "47", "times"]);
    assert_eq!(found("Checkout -> payments-7d8f9:8080."), ["checkout", "payments-7d8f9", "8080"]);
    assert_eq!(found("[a.Pay.svc] a_b"), ["a", "a.pay", "a.pay.svc", "pay", "pay.svc", "svc", "a", "b"]);
}

#[test]
fn places_of_names() {
    let place = |text| Place::of_text(text);
    assert_eq!(place("Pod shop/a"), Place::Namespace("shop".to_owned()));
    assert_eq!(place("Unit worker-1/sshd.service"), Place::Cluster);
    assert_eq!(place("Node worker-1"), Place::Cluster);
    assert_eq!(place("nobody"), Place::Everywhere);
    let long = "n".repeat(MAX_NAME + 1);
    assert_eq!(Name::new("Pod", Some(&long), "a").place(), Place::Everywhere);
    let many = (0..=MAX_PLACES).map(|nth| Place::Namespace(nth.to_string()));
    assert_eq!(Prose::new("a", many).places, Places::from([Place::Everywhere]));
    let read: Prose = serde_json::from_str("\"a\"").unwrap();
    assert_eq!((&*read, read.places.clone()), ("a", Places::from([Place::Everywhere])));
}

#[test]
fn a_word_is_hidden_by_what_it_is_the_name_of() {
    let [shop, pay] = ["shop", "pay"].map(|name| Place::Namespace(name.to_owned()));
    let mut sight = Sight::default();
    assert!(!sight.shows("payments of pay"));
    assert_eq!(sight.unknown().words.len(), 3);
    let named = |is_namespace, places: &[&Place]| Named {
        is_namespace,
        places: places.iter().map(|place| (*place).clone()).collect(),
    };
    sight.learn_words(HashMap::from([
        ("of".to_owned(), Named::default()),
        ("pay".to_owned(), named(true, &[])),
        ("payments".to_owned(), named(false, &[&shop, &pay])),
        ("ledger".to_owned(), named(false, &[&pay])),
    ]));
    assert!(sight.shows("of"));
    assert!(!sight.shows("of pay"));
    assert_eq!(sight.unknown().places, Places::from([pay.clone()]));
    sight.learn(pay, false);
    sight.learn(shop, true);
    assert!(sight.shows("payments of"), "there is one that may be read");
    assert!(!sight.shows("ledger") && !sight.shows("(pay)") && !sight.shows("of Pay"));
    assert!(sight.unknown().is_empty());
    assert!(!sight.shows("payments.pay.svc"), "some of it is not known");
    assert!(!sight.reads(&Place::Everywhere));
}
