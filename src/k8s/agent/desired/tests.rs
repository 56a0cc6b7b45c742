//! Who is listened to, and what goes on when nobody speaks.

use serde_json::json;

use super::*;
use crate::k8s::crd::{ModelStatus, ReplicaBody, ReplicaStatus};

fn spec(path: &str) -> ModelSpec {
    serde_json::from_value(json!({"source": {"path": path}})).unwrap()
}

fn revision(path: &str) -> String {
    revision_of(&spec(path))
}

fn slot(path: &str) -> Slot {
    Slot { revision: revision(path), generation: 1, digest: None, spec: FrozenSpec::of(&spec(path)) }
}

fn model(path: &str, stable: Option<&str>) -> ModelObject {
    ModelObject {
        name: "chat".to_owned(),
        uid: "one".to_owned(),
        generation: 1,
        created: 1,
        deleting: false,
        retry: None,
        spec: Ok(spec(path)),
        status: Some(ModelStatus { stable: stable.map(slot), ..ModelStatus::default() }),
    }
}

fn assigned(serve: Option<&str>, ahead: Option<&str>) -> BTreeMap<String, Replica> {
    let body = ReplicaBody {
        pod_name: "pod".to_owned(),
        model_name: "chat".to_owned(),
        model_uid: "one".to_owned(),
        revision: serve.map(revision),
        prefetch_revision: ahead.map(revision),
        epoch: 1,
        retry: None,
        may_unload: false,
    };
    let replica = Replica {
        object: "pod.chat".to_owned(),
        uid: "r".to_owned(),
        body,
        status: ReplicaStatus::default(),
    };
    BTreeMap::from([("chat".to_owned(), replica)])
}

struct Pod {
    memory: Memory,
    began: Instant,
}

impl Pod {
    fn new() -> Self {
        Self { memory: Memory::default(), began: Instant::now() }
    }

    fn learn(&mut self, seconds: u64, models: &[ModelObject], replicas: &BTreeMap<String, Replica>) -> News {
        self.memory.learn(models, replicas, (&Defaults::small(), self.began + Duration::from_secs(seconds)))
    }

    /// What is served, and what is prepared.
    fn wants(&self) -> Option<(String, Option<String>, Purpose)> {
        let all = self.memory.desired(&Defaults::small());
        let target = all.values().next()?;
        let ahead = target.ahead.as_ref().map(|ahead| ahead.revision.clone());
        Some((target.revision.clone(), ahead, target.purpose))
    }
}

#[test]
fn an_assignment_comes_before_what_the_object_says() {
    let mut pod = Pod::new();
    assert!(pod.learn(0, &[model("new", Some("old"))], &assigned(Some("old"), Some("new"))).changed);
    assert_eq!(pod.wants(), Some((revision("old"), Some(revision("new")), Purpose::Needed)));
    assert!(!pod.learn(1, &[model("new", Some("old"))], &assigned(Some("old"), Some("new"))).changed);
    pod.learn(2, &[model("new", Some("old"))], &assigned(Some("new"), None));
    assert_eq!(pod.wants(), Some((revision("new"), None, Purpose::Needed)));
}

#[test]
fn a_process_knows_which_revision_the_fleet_has_found_good_also_after_a_restart() {
    let mut pod = Pod::new();
    let found_good = |pod: &Pod| {
        let all = pod.memory.desired(&Defaults::small());
        let target = all.values().next().unwrap();
        (target.is_stable, target.ahead.as_ref().is_some_and(|ahead| ahead.is_stable))
    };
    pod.learn(0, &[model("new", Some("old"))], &assigned(Some("old"), Some("new")));
    assert_eq!(found_good(&pod), (true, false));
    pod.learn(1, &[model("new", Some("old"))], &assigned(Some("new"), None));
    assert_eq!(found_good(&pod), (false, false));
    assert!(pod.learn(2, &[model("new", Some("new"))], &assigned(Some("new"), None)).changed);
    assert_eq!(found_good(&pod), (true, false));
    let folder = tempfile::tempdir().unwrap();
    pod.memory.write(&folder.path().join("state"));
    pod.memory = Memory::read(&folder.path().join("state"));
    assert_eq!(found_good(&pod), (true, false));
}

#[test]
fn a_first_revision_is_prepared_before_it_serves() {
    let mut pod = Pod::new();
    pod.learn(0, &[model("new", None)], &assigned(None, Some("new")));
    assert_eq!(pod.wants(), Some((revision("new"), None, Purpose::Prepare)));
    pod.learn(0, &[model("new", None)], &assigned(Some("new"), None));
    assert_eq!(pod.wants(), Some((revision("new"), None, Purpose::Serve)));
}

#[test]
fn without_a_controller_the_stable_revision_serves_and_then_what_the_object_says() {
    let mut pod = Pod::new();
    pod.learn(0, &[model("new", Some("old"))], &BTreeMap::new());
    assert_eq!(pod.wants().unwrap().0, revision("old"), "what has proved itself, at once");
    let mut fresh = Pod::new();
    fresh.learn(0, &[model("new", None)], &BTreeMap::new());
    fresh.learn(29, &[model("new", None)], &BTreeMap::new());
    assert_eq!(fresh.wants(), None, "a controller may still speak");
    fresh.learn(30, &[model("new", None)], &BTreeMap::new());
    assert_eq!(fresh.wants().unwrap().0, revision("new"));
}

#[test]
fn a_replica_that_is_deleted_by_hand_changes_nothing_for_a_while() {
    let mut pod = Pod::new();
    pod.learn(0, &[model("new", Some("old"))], &assigned(Some("new"), None));
    assert!(!pod.learn(1, &[model("new", Some("old"))], &BTreeMap::new()).changed);
    assert!(pod.learn(31, &[model("new", Some("old"))], &BTreeMap::new()).changed);
    assert_eq!(pod.wants().unwrap().0, revision("old"));
}

#[test]
fn a_deleted_model_goes_on_until_its_replica_is_gone_too_and_the_kind_is_still_there() {
    let mut pod = Pod::new();
    let at = |pod: &Pod, seconds| pod.began + Duration::from_secs(seconds);
    pod.learn(0, &[model("a", Some("a"))], &assigned(Some("a"), None));
    pod.learn(1, &[], &assigned(Some("a"), None));
    assert!(!pod.memory.awaits_an_end(at(&pod, 60)), "the controller has not said anything");
    pod.learn(2, &[], &BTreeMap::new());
    assert!(!pod.memory.awaits_an_end(at(&pod, 11)), "the kind may go too");
    assert!(pod.memory.awaits_an_end(at(&pod, 12)));
    assert_eq!(pod.wants().unwrap().0, revision("a"), "nobody was asked yet");
    pod.memory.end_what_is_gone();
    assert_eq!(pod.wants(), None);
}

#[test]
fn models_outlive_their_kind_until_objects_of_their_names_come_and_go() {
    let mut pod = Pod::new();
    let chat = [model("a", Some("a"))];
    pod.learn(0, &chat, &assigned(Some("a"), None));
    assert!(!pod.memory.hear_of_the_kind(false, &chat));
    pod.learn(1, &[], &BTreeMap::new());
    assert!(pod.memory.hear_of_the_kind(true, &[]));
    assert!(!pod.memory.hear_of_the_kind(true, &[]), "it is told once");
    // The definition is there again, and no object yet, not even for a process that starts now.
    let folder = tempfile::tempdir().unwrap();
    pod.memory.write(&folder.path().join("state"));
    pod.memory = Memory::read(&folder.path().join("state"));
    pod.learn(100, &[], &BTreeMap::new());
    assert!(!pod.memory.hear_of_the_kind(false, &[]));
    assert!(!pod.memory.awaits_an_end(pod.began + Duration::from_secs(200)));
    pod.memory.end_what_is_gone();
    assert_eq!(pod.wants().unwrap().0, revision("a"));
    // Applied anew, it is another object; then it is deleted.
    let again = [ModelObject { uid: "two".to_owned(), ..model("a", None) }];
    pod.learn(201, &again, &BTreeMap::new());
    assert!(pod.memory.hear_of_the_kind(false, &again));
    assert_eq!(pod.wants().unwrap().0, revision("a"), "what serves goes on");
    pod.learn(202, &[], &BTreeMap::new());
    assert!(pod.memory.awaits_an_end(pod.began + Duration::from_mins(5)));
}

#[test]
fn another_model_of_the_same_name_takes_over_without_a_gap_where_no_controller_speaks() {
    let mut pod = Pod::new();
    pod.learn(0, &[model("a", None)], &BTreeMap::new());
    pod.learn(30, &[model("a", None)], &BTreeMap::new());
    assert_eq!(pod.wants().unwrap().0, revision("a"));
    let other = [ModelObject { uid: "two".to_owned(), ..model("b", None) }];
    pod.learn(40, &other, &BTreeMap::new());
    assert_eq!(pod.wants().unwrap().0, revision("a"), "what serves goes on for a while");
    pod.learn(70, &other, &BTreeMap::new());
    assert_eq!(pod.wants().unwrap().0, revision("b"));
}

#[test]
fn a_model_that_is_paused_does_not_begin_by_itself() {
    let mut pod = Pod::new();
    let mut paused = model("a", None);
    paused.spec.as_mut().unwrap().paused = true;
    pod.learn(0, std::slice::from_ref(&paused), &BTreeMap::new());
    pod.learn(60, &[paused], &BTreeMap::new());
    assert_eq!(pod.wants(), None);
}

#[test]
fn another_model_of_the_same_name_waits_for_the_controller() {
    let mut pod = Pod::new();
    pod.learn(0, &[model("a", Some("a"))], &assigned(Some("a"), None));
    let other = ModelObject { uid: "two".to_owned(), ..model("b", None) };
    pod.learn(1, std::slice::from_ref(&other), &assigned(Some("a"), None));
    assert_eq!(pod.wants().unwrap().0, revision("a"), "the replica speaks of the model that was");
    let mut replicas = assigned(None, Some("b"));
    replicas.get_mut("chat").unwrap().body.model_uid = "two".to_owned();
    pod.learn(2, &[other], &replicas);
    assert_eq!(pod.wants(), Some((revision("b"), None, Purpose::Prepare)));
}

#[test]
fn an_assignment_that_cannot_be_understood_leaves_what_serves_alone() {
    let mut pod = Pod::new();
    pod.learn(0, &[model("a", Some("a"))], &assigned(Some("a"), None));
    // Of a revision that the object, seen through an older watch, does not describe.
    pod.learn(1, &[model("a", Some("a"))], &assigned(Some("unheard"), None));
    assert_eq!(pod.wants().unwrap().0, revision("a"));
    assert_eq!(pod.memory.problem("chat", pod.began + Duration::from_secs(5)), None, "it may be on its way");
    pod.learn(70, &[model("a", Some("a"))], &assigned(Some("unheard"), None));
    assert!(pod.memory.problem("chat", pod.began + Duration::from_secs(70)).is_some());
    pod.memory.excuse_what_is_unknown();
    assert_eq!(pod.memory.problem("chat", pod.began + Duration::from_secs(70)), None, "nothing is heard");
    // A path that leaves the model root: an older schema let it pass.
    let mut wrong = model("a", Some("a"));
    wrong.status.as_mut().unwrap().target =
        Some(Slot { revision: "0123456789".to_owned(), ..slot("../secrets") });
    let mut replicas = assigned(None, None);
    replicas.get_mut("chat").unwrap().body.revision = Some("0123456789".to_owned());
    pod.learn(71, &[wrong], &replicas);
    assert_eq!(pod.wants().unwrap().0, revision("a"));
    assert!(pod.memory.problem("chat", pod.began).unwrap().contains("secrets"));
}

#[test]
fn a_new_value_of_the_annotation_asks_for_another_try_once() {
    let mut pod = Pod::new();
    pod.learn(0, &[model("a", None)], &assigned(None, Some("a")));
    let mut replicas = assigned(None, Some("a"));
    replicas.get_mut("chat").unwrap().body.retry = Some("again".to_owned());
    assert_eq!(pod.learn(1, &[model("a", None)], &replicas).retries, ["chat"]);
    assert!(pod.learn(2, &[model("a", None)], &replicas).retries.is_empty());
}

#[test]
fn a_digest_that_the_controller_has_pinned_is_kept() {
    let digest = format!("sha256:{}", "a".repeat(64));
    let mut pinned = model("a", Some("a"));
    pinned.status.as_mut().unwrap().stable.as_mut().unwrap().digest = Some(digest.clone());
    let mut pod = Pod::new();
    pod.learn(0, &[pinned], &assigned(Some("a"), None));
    let all = pod.memory.desired(&Defaults::small());
    assert_eq!(all.values().next().unwrap().digest.as_ref().unwrap().to_string(), digest);
}

#[test]
fn what_is_known_survives_the_process() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("_cluster.json");
    let mut pod = Pod::new();
    pod.learn(0, &[model("new", Some("old"))], &assigned(Some("old"), Some("new")));
    pod.memory.write(&path);
    let mut next = Pod { memory: Memory::read(&path), began: pod.began };
    assert_eq!(next.wants(), pod.wants());
    assert!(!next.learn(1, &[model("new", Some("old"))], &assigned(Some("old"), Some("new"))).changed);
    std::fs::write(&path, b"{").unwrap();
    assert!(Memory::read(&path).is_empty(), "a broken file is told and left behind");
}

fn with_templates(templates: &serde_json::Value) -> ModelObject {
    let object = json!({
        "apiVersion": "inference-gateway.io/v1alpha1", "kind": "Model",
        "metadata": {"name": "chat", "uid": "one", "generation": 2, "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"source": {"path": "old"}, "promptTemplates": templates},
        "status": serde_json::to_value(ModelStatus { stable: Some(slot("old")), ..ModelStatus::default() }).unwrap(),
    });
    ModelObject::read(&serde_json::from_value(object).unwrap())
}

#[test]
fn templates_change_without_another_revision_and_a_broken_one_changes_nothing() {
    let names = |pod: &Pod| -> Vec<String> {
        let all = pod.memory.desired(&Defaults::small());
        all.values().next().unwrap().templates.prompts.names().map(str::to_owned).collect()
    };
    let fine = with_templates(&json!([{"name": "one", "template": "{{ a }}"}]));
    let broken = with_templates(&json!([{"name": "two", "template": "{{ a"}]));
    let mut pod = Pod::new();
    pod.learn(0, &[model("old", Some("old"))], &assigned(Some("old"), None));
    assert!(names(&pod).is_empty());
    assert!(pod.learn(1, std::slice::from_ref(&fine), &assigned(Some("old"), None)).changed);
    assert_eq!(pod.wants().unwrap().0, revision("old"), "nothing is loaded again");
    assert_eq!(names(&pod), ["one"]);
    assert!(!pod.learn(2, std::slice::from_ref(&broken), &assigned(Some("old"), None)).changed);
    assert_eq!(names(&pod), ["one"]);
    // A pod that begins meanwhile serves all the same.
    let mut pod = Pod::new();
    pod.learn(0, &[broken], &assigned(Some("old"), None));
    assert_eq!(pod.wants().unwrap().0, revision("old"));
    assert!(names(&pod).is_empty());
    pod.learn(1, &[fine], &assigned(Some("old"), None));
    assert_eq!(names(&pod), ["one"]);
}
