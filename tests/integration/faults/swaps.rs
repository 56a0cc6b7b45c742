//! Swaps in bad moments: streams that run, streams that run too long, changes of mind, too little memory, a bad revision.

use futures_util::StreamExt;
use futures_util::future::join_all;

use super::*;
use crate::harness::prepared;

/// No window: the old revision drains at once.
const AT_ONCE: &str = "rollout: {watch: {windowSeconds: 0}}";

async fn drained(gateway: &Gateway) -> f64 {
    gateway
        .sample("inference_gateway_model_load_duration_seconds_count{model=\"chat\",phase=\"drain\"}")
        .await
}

/// Row 20.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_swap_under_32_streams_tears_none_of_them() {
    let (list, gateway) = serving(&["--max-batch-size=32"]).await;
    let body = json!({"text": "Once upon a time", "max_tokens": 200, "temperature": 0, "ignore_eos": true,
                      "return_token_ids": true, "stream": true});
    let url = format!("http://{}/api/v1/inference", gateway.api);
    let client = reqwest::Client::new();
    let golden = ask(&client, &url, &body).await.unwrap();
    let streams: Vec<_> = (0..32)
        .map(|_| {
            let (client, url, body) = (client.clone(), url.clone(), body.clone());
            spawn(async move { ask(&client, &url, &body).await })
        })
        .collect();
    gateway.wait_sample("inference_gateway_requests_running{model=\"chat\"}", 32.0).await;
    applied(&list, &gateway, &model(&tiny("gpt2"), AT_ONCE)).await;
    for stream in join_all(streams).await {
        assert_eq!(stream.unwrap().unwrap(), golden, "a stream ends on the model on which it began");
    }
    let began = Instant::now();
    while drained(&gateway).await < 1.0 {
        assert!(began.elapsed() < PATIENCE, "the old revision is not given back");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_ne!(ask(&client, &url, &body).await.unwrap(), golden, "the new revision answers");
}

/// Row 21. A client that reads slowly keeps its stream longer than a second.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_longer_than_its_time_ends_with_an_event_that_says_so() {
    let (list, gateway) = serving(&["--max-batch-size=1", "--queue-limit=40"]).await;
    let fields = "runtime: {maxBatchSize: 1}, limits: {maxQueue: 2000}, rollout: {drainSeconds: 1, watch: {windowSeconds: 0}}";
    applied(&list, &gateway, &model(&tiny("gpt2-no-cache"), fields)).await;
    // One row and a long queue: the last of these cannot end in a second.
    let body =
        json!({"text": "abc", "max_tokens": 200, "temperature": 0, "ignore_eos": true, "stream": true});
    let url = format!("http://{}/api/v1/inference", gateway.api);
    let client = reqwest::Client::new();
    let streams: Vec<_> = (0..300)
        .map(|_| {
            let (client, url, body) = (client.clone(), url.clone(), body.clone());
            spawn(async move {
                let response = client.post(url).body(body.to_string()).send().await.unwrap();
                let mut text = String::new();
                let mut pieces = response.bytes_stream();
                while let Some(piece) = pieces.next().await {
                    text.push_str(&String::from_utf8_lossy(&piece.unwrap()));
                }
                text
            })
        })
        .collect();
    let began = Instant::now();
    while gateway.sample("inference_gateway_requests_waiting{model=\"chat\"}").await < 250.0 {
        assert!(began.elapsed() < PATIENCE, "the queue is not full");
    }
    applied(&list, &gateway, &model(&tiny("llama"), AT_ONCE)).await;
    let texts: Vec<String> = join_all(streams).await.into_iter().map(Result::unwrap).collect();
    let replaced = texts.iter().filter(|text| text.contains("\"model_replaced\"")).count();
    let whole = texts.iter().filter(|text| text.contains("\"finish_reason\"")).count();
    assert!(replaced > 0 && replaced + whole == 300, "{replaced} ended, {whole} whole");
}

/// Row 21, when requests are waited for: the old revision stays, and a third one waits for its turn.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_may_end_in_peace_keeps_a_third_revision_waiting() {
    let (list, gateway) = serving(&["--max-batch-size=1", "--queue-limit=2000"]).await;
    let patient = "rollout: {drainSeconds: 0, afterDrain: Wait, watch: {windowSeconds: 0}}";
    let runtime = "runtime: {maxBatchSize: 1}, limits: {maxQueue: 2000}";
    applied(&list, &gateway, &model(&tiny("gpt2-no-cache"), &format!("{runtime}, {patient}"))).await;
    // One row: the last of these takes a while.
    let body = json!({"text": "abc", "max_tokens": 200, "temperature": 0, "ignore_eos": true,
                      "return_token_ids": true, "stream": true});
    let url = format!("http://{}/api/v1/inference", gateway.api);
    let client = reqwest::Client::new();
    let golden = ask(&client, &url, &body).await.unwrap();
    let streams: Vec<_> = (0..100)
        .map(|_| {
            let (client, url, body) = (client.clone(), url.clone(), body.clone());
            spawn(async move { ask(&client, &url, &body).await })
        })
        .collect();
    let began = Instant::now();
    while gateway.sample("inference_gateway_requests_waiting{model=\"chat\"}").await < 90.0 {
        assert!(began.elapsed() < PATIENCE, "the queue is not full");
    }
    applied(&list, &gateway, &model(&tiny("llama"), patient)).await;
    list.write(&model(&tiny("gpt2"), patient));
    gateway.reload();
    let waits = wait(&gateway, |model| model["state"] == "waiting").await;
    assert!(waits["reason"].as_str().unwrap().contains("requests of revision"), "{waits}");
    assert_ne!(waits["serving"], waits["revision"]);
    let unfinished = streams.iter().filter(|stream| !stream.is_finished()).count();
    assert!(unfinished > 0, "the third revision waited for nothing");
    for stream in join_all(streams).await {
        assert_eq!(stream.unwrap().unwrap(), golden, "a stream ends on the model on which it began");
    }
    wait(&gateway, |model| model["state"] == "ready" && model["serving"] == model["revision"]).await;
}

/// Row 11: right when it is tried, and wrong in service.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revision_whose_numbers_go_wrong_in_service_is_replaced_by_the_one_before() {
    let list = ModelsList::new(&model(&tiny("gpt2"), ""));
    let gateway = list.gateway(&[]).await;
    gateway.wait_ready().await;
    let before = gateway.readyz().await.1["models"][0]["serving"].clone();
    // Short texts never get as far as the numbers that are wrong.
    let client = Background::start(&gateway).await;
    let poisoned = copy("gpt2");
    let status = crate::harness::python("tests/fixtures/poisoned_model.py")
        .arg(prepared("tiny/gpt2/model.onnx"))
        .arg("100")
        .arg(poisoned.path().join("model.onnx"))
        .status();
    assert!(status.unwrap().success(), "the model was not made");
    applied(&list, &gateway, &model(&text(&poisoned), "")).await;
    for stream in [false, true] {
        let long = json!({"text": "abc", "max_tokens": 150, "ignore_eos": true, "stream": stream});
        let response = gateway.post(long.to_string()).send().await.unwrap();
        let text = response.text().await.unwrap();
        assert!(text.contains("\"code\":\"inference_failed\""), "{text}");
        let failed = wait(&gateway, |model| model["state"] == "failed").await;
        assert!(failed["reason"].as_str().unwrap().starts_with("SoakErrors: "), "{failed}");
        assert_eq!(failed["serving"], before, "the revision before answers again");
        if stream {
            break;
        }
        // Another try is asked for, and ends the same way.
        let retry = format!("http://{}/admin/models/chat/retry", gateway.admin);
        assert!(gateway.client.post(retry).send().await.unwrap().status().is_success());
        wait(&gateway, |model| model["state"] == "ready" && model["serving"] != before).await;
    }
    gateway.wait_sample("inference_gateway_requests_running{model=\"chat\"}", 0.0).await;
    client.saw_no_failure().await;
}

/// Row 23.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_changes_in_five_seconds_end_on_the_last() {
    let (list, gateway) = serving(&[]).await;
    let llama = gateway.greedy(PROMPT, 6).await;
    let gpt2 = Gateway::serving(&tiny("gpt2"), &[]).await.greedy(PROMPT, 6).await;
    // The last one serves llama again; at most two come between.
    let goldens = [&llama, &gpt2, &llama, &gpt2, &llama].map(Clone::clone);
    let client = Background::expecting(&gateway, goldens.to_vec());
    let loads = "inference_gateway_model_load_duration_seconds_count{model=\"chat\",phase=\"load\"}";
    let before = gateway.sample(loads).await;
    for change in 0..20 {
        let (name, context) = if change % 2 == 0 { ("gpt2", 50 + change) } else { ("llama", 50 + change) };
        list.write(&model(&tiny(name), &format!("runtime: {{contextLength: {context}}}, {AT_ONCE}")));
        gateway.reload();
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    let settled =
        wait(&gateway, |model| model["state"] == "ready" && model["serving"] == model["revision"]).await;
    let request = json!({"text": "abc", "max_tokens": 100});
    let (status, body) = gateway.infer(&request).await;
    assert!(status == 400 && body.to_string().contains("69 tokens"), "the last change: {body} {settled}");
    let loads = gateway.sample(loads).await - before;
    assert!((1.0..=3.0).contains(&loads), "{loads} loads for one revision that counts");
    client.saw_no_failure().await;
}

/// Row 23, the other half.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_that_is_taken_back_costs_nothing() {
    let (list, gateway) = serving(&[]).await;
    let client = Background::start(&gateway).await;
    let before = gateway.readyz().await.1["models"][0]["serving"].clone();
    list.write(&sourced("{path: nowhere/at/all}", ""));
    gateway.reload();
    // What is not there may come: it is tried again.
    wait(&gateway, |model| model["reason"].as_str().is_some_and(|why| why.contains("tried again"))).await;
    list.write(&model(&tiny("llama"), ""));
    gateway.reload();
    let after = wait(&gateway, |model| model["state"] == "ready").await;
    assert_eq!((&after["serving"], swaps(&gateway).await), (&before, 0.0));
    client.saw_no_failure().await;
}

/// Row 24.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_that_does_not_fit_leaves_the_old_one_alone() {
    let (list, gateway) = serving(&[]).await;
    let client = Background::start(&gateway).await;
    list.write(&model(&tiny("gpt2"), "runtime: {memory: 100000Gi}"));
    gateway.reload();
    let waits =
        wait(&gateway, |model| model["reason"].as_str().is_some_and(|why| why.contains("tried again"))).await;
    let told = waits["reason"].as_str().unwrap();
    assert!(told.starts_with("InsufficientMemory: ") && told.contains("UnloadBeforeLoad"), "{told}");
    client.saw_no_failure().await;
}

/// Row 24, the other half: requests wait while the old revision makes room.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_that_makes_room_first_keeps_requests_waiting_and_fails_none() {
    let (list, gateway) = serving(&[]).await;
    let url = format!("http://{}/api/v1/inference", gateway.api);
    let stop = Arc::new(AtomicBool::new(false));
    let ended = Arc::clone(&stop);
    let clients = spawn(async move {
        let client = reqwest::Client::new();
        let body = json!({"text": "abc", "max_tokens": 3, "return_token_ids": true});
        let mut answers = 0;
        while !ended.load(Ordering::Relaxed) {
            ask(&client, &url, &body).await?;
            answers += 1;
        }
        Ok::<usize, String>(answers)
    });
    applied(&list, &gateway, &model(&tiny("gpt2"), "rollout: {swapPolicy: UnloadBeforeLoad}")).await;
    stop.store(true, Ordering::Relaxed);
    assert!(clients.await.unwrap().unwrap() > 5);
}

/// A revision that loads and passes its probes, and then does worse than it may: the one before comes back by itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revision_that_is_too_slow_is_replaced_by_the_one_before_and_not_tried_again() {
    let (list, gateway) = serving(&[]).await;
    let before = gateway.readyz().await.1["models"][0]["serving"].clone();
    // A model of ordinary size needs many times as long for a token.
    let watch = "rollout: {watch: {minimumRequests: 3, maxTokenMilliseconds: 2}}";
    let slow = prepared("models/smollm2-135m-instruct-w8a8").display().to_string();
    let entry = model(&slow, watch);
    list.write(&entry);
    gateway.reload();
    wait(&gateway, |model| model["state"] == "ready" && model["serving"] != before).await;
    let began = Instant::now();
    let body = loop {
        gateway.infer(&json!({"text": "abc", "max_tokens": 20, "ignore_eos": true})).await;
        let (_, body) = gateway.readyz().await;
        if body["models"][0]["state"] == "failed" {
            break body;
        }
        assert!(began.elapsed() < PATIENCE, "{body}");
    };
    let model = &body["models"][0];
    assert!(model["reason"].as_str().unwrap().starts_with("SoakErrors: tokens take"), "{body}");
    assert_eq!((&model["serving"], &body["ready"]), (&before, &json!(true)));
    let rolled_back = "inference_gateway_model_rollbacks_total{model=\"chat\",reason=\"SoakErrors\"}";
    assert_eq!(gateway.sample(rolled_back).await as u64, 1);
    // Another reading of the same list does not bring it back.
    gateway.reload();
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert_eq!(gateway.readyz().await.1["models"][0]["serving"], before);
}
