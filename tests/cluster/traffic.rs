//! Clients in the background that must never notice anything: they keep their connections, never try again, ask the ready
//! pods in turn as a Service would let them, and look at every answer.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::namespace::Namespace;
use crate::node_status::is_ready;
use crate::verdict::{Answer, Expected, START, Tally};
use crate::{eventually, spawn};

/// How often the set of ready pods is read: about what it takes a change to reach every node of a cluster.
const ENDPOINTS_PERIOD: Duration = Duration::from_millis(100);
/// An answer of a tiny model that takes so long is none.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
const CLIENTS_PER_QUESTION: usize = 2;
/// Between two requests of a client: some forty a second are enough to find every gap, and leave the two cores to the rollout.
const THINKING_TIME: Duration = Duration::from_millis(20);

/// What is asked, and what may be answered.
pub(crate) struct Question {
    pub(crate) model: String,
    pub(crate) prompt: String,
    pub(crate) expected: Expected,
}

/// Clients that ask until they are told to stop.
pub(crate) struct Traffic {
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<()>>,
    endpoints: JoinHandle<()>,
}

struct Shared {
    http: reqwest::Client,
    ready: Mutex<Vec<SocketAddr>>,
    turn: AtomicUsize,
    questions: Vec<Mutex<Question>>,
    phase: Mutex<String>,
    tally: Mutex<Tally>,
    stop: AtomicBool,
}

impl Traffic {
    /// Asks the pods of a gateway as soon as one is ready; some clients for each question.
    pub(crate) async fn start(namespace: &Namespace, gateway: &str, questions: Vec<Question>) -> Self {
        let shared = Arc::new(Shared {
            http: http_client(),
            ready: Mutex::default(),
            turn: AtomicUsize::default(),
            questions: questions.into_iter().map(Mutex::new).collect(),
            phase: Mutex::new(START.to_owned()),
            tally: Mutex::default(),
            stop: AtomicBool::default(),
        });
        let selector = format!("app.kubernetes.io/instance={gateway}");
        let endpoints = spawn(follow_endpoints(Arc::clone(&shared), namespace.all(), selector));
        eventually("a ready pod", async || shared.pick()).await;
        let clients = (0..shared.questions.len() * CLIENTS_PER_QUESTION)
            .map(|client| spawn(keep_asking(Arc::clone(&shared), client)))
            .collect();
        Self { shared, clients, endpoints }
    }

    /// From now on answers are counted under this name, those that are under way too.
    pub(crate) fn phase(&self, name: &str) {
        name.clone_into(&mut self.shared.phase.lock().unwrap());
    }

    /// Waits until so many answers came in the present phase, wrong ones too.
    pub(crate) async fn wait_answers(&self, answers: usize) {
        let phase = self.shared.phase.lock().unwrap().clone();
        eventually("answers to the traffic", async || {
            (self.shared.tally.lock().unwrap().answers(&phase) >= answers).then_some(())
        })
        .await;
    }

    /// Lets every answer under way come in, and gives what was seen.
    pub(crate) async fn stop(self) -> Tally {
        self.shared.stop.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.await.unwrap();
        }
        self.endpoints.abort();
        std::mem::take(&mut *self.shared.tally.lock().unwrap())
    }
}

impl Shared {
    /// The next ready pod.
    fn pick(&self) -> Option<SocketAddr> {
        let ready = self.ready.lock().unwrap();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        (!ready.is_empty()).then(|| ready[turn % ready.len()])
    }
}

/// As on a node, what was known stays while the apiserver is away.
async fn follow_endpoints(shared: Arc<Shared>, pods: Api<Pod>, selector: String) {
    let gateway = ListParams::default().labels(&selector);
    loop {
        if let Ok(found) = pods.list(&gateway).await {
            let ready = found.items.iter().filter(|pod| is_ready(pod)).filter_map(api_address).collect();
            *shared.ready.lock().unwrap() = ready;
        }
        tokio::time::sleep(ENDPOINTS_PERIOD).await;
    }
}

/// The address of a pod's port `http`.
fn api_address(pod: &Pod) -> Option<SocketAddr> {
    let address = pod.status.as_ref()?.pod_ip.as_ref()?.parse().ok()?;
    let ports = pod.spec.as_ref()?.containers.first()?.ports.as_ref()?;
    let port = ports.iter().find(|port| port.name.as_deref() == Some("http"))?;
    Some(SocketAddr::new(address, port.container_port.try_into().ok()?))
}

async fn keep_asking(shared: Arc<Shared>, client: usize) {
    let question = &shared.questions[client / CLIENTS_PER_QUESTION];
    for turn in client.. {
        if shared.stop.load(Ordering::Relaxed) {
            return;
        }
        let streamed = turn % 2 == 0;
        let (model, prompt) = {
            let question = question.lock().unwrap();
            (question.model.clone(), question.prompt.clone())
        };
        let judged = match shared.pick() {
            None => Err("no pod is ready".to_owned()),
            Some(pod) => match ask(&shared.http, pod, &body(&model, &prompt, streamed)).await {
                Ok(answer) => question.lock().unwrap().expected.judge(&answer).map(|()| answer),
                Err(reason) => Err(reason),
            }
            .map_err(|reason| format!("{pod}, streamed {streamed}: {reason}")),
        };
        let phase = shared.phase.lock().unwrap().clone();
        let failed = judged.is_err();
        shared.tally.lock().unwrap().note(&phase, &model, streamed, judged);
        // What is refused at once would fill the memory with reasons.
        tokio::time::sleep(if failed { ENDPOINTS_PERIOD } else { THINKING_TIME }).await;
    }
}

/// A client that keeps its connections and asks once.
pub(crate) fn http_client() -> reqwest::Client {
    // Another test of this process may have installed it.
    drop(rustls::crypto::ring::default_provider().install_default());
    reqwest::Client::builder().retry(reqwest::retry::never()).timeout(ANSWER_TIMEOUT).build().unwrap()
}

/// A greedy request of a few tokens.
pub(crate) fn body(model: &str, prompt: &str, streamed: bool) -> Value {
    json!({
        "model": model, "text": prompt, "max_tokens": 12, "temperature": 0, "ignore_eos": true,
        "return_full_text": false, "stream": streamed,
    })
}

/// One request, and its answer as a whole.
pub(crate) async fn ask(http: &reqwest::Client, pod: SocketAddr, body: &Value) -> Result<Answer, String> {
    let request = http.post(format!("http://{pod}/api/v1/inference")).json(body);
    let response = request.send().await.map_err(|error| format!("{error:?}"))?;
    let status = response.status();
    let revision = response.headers().get("x-model-revision").and_then(|value| value.to_str().ok());
    let revision = revision.map(str::to_owned);
    let text = response.text().await.map_err(|error| format!("after the head of the answer: {error:?}"))?;
    let said = if body["stream"] == true { streamed_text(&text) } else { whole_text(&text) };
    match (status.as_u16(), revision, said) {
        (200, Some(revision), Some(text)) => Ok(Answer { revision, text }),
        _ => Err(format!("{status}: {text}")),
    }
}

fn whole_text(text: &str) -> Option<String> {
    let answer: Value = serde_json::from_str(text).ok()?;
    complete(&answer)?;
    Some(answer["generated_text"].as_str()?.to_owned())
}

/// The pieces of a stream, if its last event says that it is complete.
fn streamed_text(text: &str) -> Option<String> {
    let events = text.split("\n\n").filter(|event| !event.is_empty() && !event.starts_with(':'));
    let events: Option<Vec<Value>> =
        events.map(|event| serde_json::from_str(event.strip_prefix("data: ")?).ok()).collect();
    let events = events?;
    let (last, pieces) = events.split_last()?;
    complete(last)?;
    pieces.iter().map(|piece| piece["text"].as_str()).collect()
}

/// The length of a finished answer is the one that was asked for.
fn complete(event: &Value) -> Option<()> {
    (event["metadata"]["finish_reason"] == "length").then_some(())
}

#[test]
fn an_answer_that_breaks_off_or_fails_is_none() {
    let end = r#"data: {"metadata": {"finish_reason": "length"}}"#;
    let piece = r#"data: {"text": "ab"}"#;
    let error = r#"data: {"error": {"code": "internal"}}"#;
    assert_eq!(streamed_text(&format!("{piece}\n\n: wait\n\n{piece}\n\n{end}\n\n")), Some("abab".to_owned()));
    for broken in
        [piece.to_owned(), format!("{piece}\n\n{error}\n\n"), format!("{piece}\n\n{{"), String::new()]
    {
        assert_eq!(streamed_text(&broken), None, "{broken}");
    }
    assert_eq!(whole_text(r#"{"generated_text": "a", "metadata": {"finish_reason": "error"}}"#), None);
}
