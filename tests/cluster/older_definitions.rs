//! A new controller on the definitions of an older version: it says what is lost, and goes on with the rest.

use k8s_openapi::api::events::v1::Event;
use kube::api::{Api, ListParams};

use crate::eventually;
use crate::fleet::{Fleet, condition, install, spec};
use crate::plane::ControlPlane;

const OUTDATED: &str = "inference_gateway_definition_outdated{resource=\"models\"}";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_controller_says_which_fields_an_older_definition_loses_and_goes_on() {
    let plane = ControlPlane::start("older").await;
    let mut fleet = Fleet::prepare(&plane, "older").await;
    plane
        .change_model_schema(|schema| {
            let spec_schema = schema.properties.as_mut().unwrap().get_mut("spec").unwrap();
            let rollout = spec_schema.properties.as_mut().unwrap().get_mut("rollout").unwrap();
            rollout.properties.as_mut().unwrap().remove("watch").unwrap();
        })
        .await;
    // The apiserver publishes a new schema a moment after it has stored it.
    let admin = plane.admin().await;
    let published = async |wanted: bool| {
        let path = "/openapi/v3/apis/inference-gateway.io/v1alpha1";
        let request = http::Request::get(path).body(Vec::new()).unwrap();
        let text = admin.request_text(request).await.ok()?;
        (text.contains("maxStepSeconds") == wanted).then_some(())
    };
    eventually("the older schema", async || published(false).await).await;

    fleet.add_pod(&[]).await;
    fleet.add_controller(&[]).await;
    fleet.all_ready().await;
    eventually("the metric", async || (fleet.metric(0, OUTDATED).await > 0.0).then_some(())).await;
    let events: Api<Event> = fleet.namespace.all();
    let note = eventually("the event", async || {
        let all = events.list(&ListParams::default()).await.unwrap();
        let told = all.items.into_iter().find(|event| event.reason.as_deref() == Some("DefinitionOutdated"));
        told?.note
    })
    .await;
    assert!(note.contains("Model does not know spec.rollout.watch: apply the definitions"), "{note}");
    let mut known = spec("llama");
    known["rollout"].as_object_mut().unwrap().remove("watch");
    fleet.apply("chat", &known).await;
    fleet.wait("chat", "served", |status| condition(status, "Ready") == "True RolledOut").await;

    install(&plane).await;
    eventually("the newer schema", async || published(true).await).await;
    fleet.controllers[0].program.restart();
    let now = "inference_gateway_definition_outdated{resource=\"modelreplicas\"} 0";
    eventually("another look", async || {
        let url = format!("http://{}/metrics", fleet.controllers[0].ops);
        let text = crate::traffic::http_client().get(url).send().await.ok()?.text().await.ok()?;
        text.contains(now).then_some(())
    })
    .await;
    assert!(fleet.metric(0, OUTDATED).await < 1.0);
}
