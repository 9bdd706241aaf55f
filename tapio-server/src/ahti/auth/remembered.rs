//! Answers that are remembered for a while. Who asks for what is being asked for already gets the same answer.

use std::{
    hash::{Hash, RandomState},
    num::NonZeroUsize,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use futures_util::{
    FutureExt as _,
    future::{BoxFuture, Shared},
};
use lru::LruCache;

/// A question that takes longer is asked anew.
const PENDING: Duration = Duration::from_secs(30);

/// Answers by their questions; the least used make room.
pub(super) struct Remembered<K, V>(Mutex<LruCache<K, Entry<V>, RandomState>>);

struct Entry<V> {
    /// When it was asked for.
    asked: Instant,
    answer: Shared<BoxFuture<'static, V>>,
}

impl<K: Hash + Eq, V: Clone + Send + Sync + 'static> Remembered<K, V> {
    pub(super) fn new(max: NonZeroUsize) -> Self {
        Self(Mutex::new(LruCache::with_hasher(max, RandomState::new())))
    }

    /// The answer to a question, which is asked if it is not known, or for longer than `lasts` says.
    pub(super) async fn get<A>(&self, key: K, lasts: impl Fn(&V) -> Duration, ask: impl FnOnce() -> A) -> V
    where
        A: Future<Output = V> + Send + 'static,
    {
        let answer = {
            let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let fresh = known
                .get(&key)
                .filter(|entry| entry.asked.elapsed() < entry.answer.peek().map_or(PENDING, &lasts));
            match fresh.map(|entry| entry.answer.clone()) {
                Some(answer) => answer,
                None => {
                    let answer = ask().boxed().shared();
                    // It is answered even if nobody waits any more, and holds up no others.
                    tokio::spawn(answer.clone());
                    known.put(key, Entry { asked: Instant::now(), answer: answer.clone() });
                    answer
                }
            }
        };
        answer.await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use futures_util::future::join_all;
    use tokio::time::sleep;

    use super::*;

    #[tokio::test]
    async fn one_question_for_all_who_ask_and_another_one_when_it_is_old() {
        let asked = Arc::new(AtomicUsize::new(0));
        let known = Remembered::<u8, usize>::new(NonZeroUsize::new(2).unwrap());
        let get = |key, lasts: Duration| {
            let asked = Arc::clone(&asked);
            let ask = move || async move {
                sleep(Duration::from_millis(5)).await;
                asked.fetch_add(1, Ordering::Relaxed)
            };
            known.get(key, move |_| lasts, ask)
        };
        let long = Duration::from_secs(60);
        assert_eq!(join_all((0..9).map(|_| get(1, long))).await, [0; 9]);
        assert_eq!(get(1, long).await, 0);
        assert_eq!(get(1, Duration::ZERO).await, 1);
        // The third makes room.
        assert_eq!((get(2, long).await, get(3, long).await, get(1, long).await), (2, 3, 4));
        assert_eq!(get(3, long).await, 3);
    }
}
