//! Which changes are news, and how long the pauses are.

use k8s_openapi::api::core::v1::Pod;
use kube::api::ObjectMeta;

use super::*;

fn pod(name: &str, uid: &str, version: &str) -> Pod {
    let text = |text: &str| Some(text.to_owned());
    let metadata = ObjectMeta {
        name: text(name),
        uid: text(uid),
        resource_version: text(version),
        ..ObjectMeta::default()
    };
    Pod { metadata, ..Pod::default() }
}

#[test]
fn a_change_that_was_heard_is_no_news_and_an_older_one_asks_for_a_list() {
    let mut version = "9".to_owned();
    assert!(is_news(&pod("a", "1", "10"), &mut version).unwrap(), "numbers, not text");
    assert_eq!(version, "10");
    assert!(!is_news(&pod("a", "1", "10"), &mut version).unwrap());
    let older = is_news(&pod("a", "1", "9"), &mut version).unwrap_err();
    assert!(older.asks_for_a_list() && version == "10");
    assert!(is_news(&pod("a", "1", ""), &mut version).unwrap_err().asks_for_a_list());
}

#[test]
fn an_object_that_is_gone_takes_no_later_one_of_its_name_along() {
    let mut all = BTreeMap::from([("a".to_owned(), Arc::new(pod("a", "2", "7")))]);
    forget(&mut all, &pod("a", "1", "8"));
    assert_eq!(all.len(), 1);
    forget(&mut all, &pod("a", "2", "8"));
    assert!(all.is_empty());
}

#[test]
fn only_what_a_list_can_mend_asks_for_one() {
    let status = |code| {
        let status = kube::core::Status { code, ..kube::core::Status::default() };
        WatchError::Api(kube::Error::Api(status.boxed()))
    };
    for code in [400, 403, 404, 410] {
        assert!(status(code).asks_for_a_list(), "{code}");
    }
    for error in [status(429), status(500), status(503), WatchError::Timeout, WatchError::Dead] {
        assert!(!error.asks_for_a_list(), "{error}");
    }
}

#[test]
fn pauses_grow_to_their_end() {
    let mut pauses = Pauses::default();
    let all: Vec<Duration> = (0..20).map(|_| pauses.next(LONGEST_PAUSE)).collect();
    assert!(all[0] <= FIRST_PAUSE && all[0] >= FIRST_PAUSE / 2);
    assert!(all[19] <= LONGEST_PAUSE && all[19] >= LONGEST_PAUSE / 2);
}
