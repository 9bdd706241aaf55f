//! Recordings of one namespace, as they would be of two.

use serde_json::{Value, json};

/// Where the failing workload is, and where those are that call it.
pub(crate) const VAULT: &str = "vault";
pub(crate) const PLAZA: &str = "plaza";

/// A fact of the namespace `shop`: `payments` and its pods are in one of the others, all else in the other.
pub(crate) fn split(fact: &str) -> String {
    let mut fact: Value = serde_json::from_str(fact).unwrap();
    move_names(&mut fact);
    fact.to_string()
}

fn move_names(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            let is_payments = ["name", "pod", "service", "owner"].iter().any(|key| {
                fields.get(*key).and_then(Value::as_str).is_some_and(|name| name.starts_with("payments"))
            });
            if fields.get("namespace").is_some_and(|namespace| namespace == "shop") {
                fields.insert("namespace".to_owned(), json!(if is_payments { VAULT } else { PLAZA }));
            }
            for key in ["message", "text"] {
                if let Some(Value::String(text)) = fields.get_mut(key) {
                    *text = moved(text);
                }
            }
            fields.values_mut().for_each(move_names);
        }
        Value::Array(values) => values.iter_mut().for_each(move_names),
        _ => {}
    }
}

/// A text with the names of its namespaces changed: those before and after `payments...`, and all others.
fn moved(text: &str) -> String {
    let words = text.split(' ').collect::<Vec<_>>();
    let is_payments = |at: usize| words.get(at).is_some_and(|word| word.contains("payments"));
    let new = words.iter().enumerate().map(|(at, word)| {
        let of = if is_payments(at) || word.starts_with("(shop)") && at > 0 && is_payments(at - 1) {
            VAULT
        } else {
            PLAZA
        };
        ["shop/", ".shop", "_shop(", "(shop)"].iter().fold((*word).to_owned(), |word, place| match place {
            // An image is no namespace.
            &"shop/" if word.contains("localhost/") => word,
            place => word.replace(place, &place.replace("shop", of)),
        })
    });
    new.collect::<Vec<_>>().join(" ")
}
