//! The definitions of the two kinds: not there when pods and controller start, and deleted with all objects while models serve.

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, DeleteParams, ListParams};

use crate::eventually;
use crate::fleet::{Fleet, install, spec};
use crate::plane::ControlPlane;
use crate::program::Program;
use crate::proxied::Proxied;

/// Longer than a model whose object is gone goes on where the kind is still there.
const LONGER_THAN_THE_END_OF_A_MODEL: Duration = Duration::from_secs(13);
/// Two pods and a controller have six watches of these kinds, each tried every ten seconds at the most in the long run.
const MOST_REQUESTS: usize = 90;

const WHY: &str = "is its definition installed?";

/// Deletes both definitions and with them all objects, and waits until the apiserver does not know the kinds any more.
async fn remove_definitions(plane: &ControlPlane, fleet: &Fleet) {
    let definitions: Api<CustomResourceDefinition> = Api::all(plane.admin().await);
    for name in ["models.inference-gateway.io", "modelreplicas.inference-gateway.io"] {
        definitions.delete(name, &DeleteParams::default()).await.unwrap();
    }
    for kind in [&fleet.models, &fleet.replicas] {
        eventually("the end of a kind", async || {
            let answer = kind.list(&ListParams::default()).await;
            matches!(answer, Err(kube::Error::Api(status)) if status.code == 404).then_some(())
        })
        .await;
    }
}

async fn restarts(fleet: &Fleet, pod: &str) -> i32 {
    let pods: Api<Pod> = fleet.namespace.all();
    let status = pods.get(pod).await.unwrap().status.unwrap();
    status.container_statuses.unwrap()[0].restart_count
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn definitions_that_come_late_or_are_deleted_take_no_model_out_of_service() {
    let plane = ControlPlane::start("definitions").await;
    // Not installed yet. Deleting them now would not be the same: the apiserver may take minutes for the end of one that it has
    // only begun to serve.
    let fleet = Fleet::prepare_uninstalled(&plane, "definitions").await;
    let (fleet, proxy) = Proxied::behind(fleet, 2).await;
    for pod in &fleet.pods {
        let told =
            eventually("a reason", async || pod.readiness().await.filter(|told| told.contains(WHY))).await;
        assert!(told.contains("\"ready\":false") && told.contains("not known yet which models"), "{told}");
    }
    let asked = proxy.asked_within(Duration::from_secs(3)).await;
    println!("not installed: {asked:?} in 3 s");
    assert!(asked.of("") <= MOST_REQUESTS, "{asked:?}");
    install(&plane).await;
    let installed = Instant::now();
    let mut proxied = Proxied::serve(fleet, proxy).await;
    println!("installed: serves after {:.1} s", installed.elapsed().as_secs_f64());

    // Deleted while it serves.
    proxied.traffic.phase("deleted");
    remove_definitions(&plane, &proxied.fleet).await;
    proxied.is_told(WHY).await;
    let asked = proxied.proxy.asked_within(LONGER_THAN_THE_END_OF_A_MODEL).await;
    println!("deleted: {asked:?} in {LONGER_THAN_THE_END_OF_A_MODEL:?}");
    assert!(asked.of("") <= MOST_REQUESTS, "{asked:?}");
    // A container that starts now begins with what it knew.
    let pod = &proxied.fleet.pods[0];
    pod.container(Program::terminate);
    eventually("a restart", async || (restarts(&proxied.fleet, &pod.name).await == 1).then_some(())).await;
    pod.wait_ready().await;
    proxied.traffic.wait_answers(50).await;

    // Installed again: that there are no objects is not yet what anybody wants.
    proxied.traffic.phase("installed again");
    install(&plane).await;
    for pod in &proxied.fleet.pods {
        eventually("nothing wrong", async || pod.readiness().await.filter(|told| !told.contains(WHY))).await;
    }
    let asked = proxied.proxy.asked_within(LONGER_THAN_THE_END_OF_A_MODEL).await;
    assert!(asked.of("") <= MOST_REQUESTS, "{asked:?}");

    // Applied again, as other objects; and then deleted by somebody.
    proxied.traffic.phase("applied again");
    proxied.update().await;
    proxied.recover("the definitions were gone").await;
    assert_eq!(proxied.traffic.stop().await.verdict(), Ok(()));
    proxied.fleet.models.delete("chat", &DeleteParams::default()).await.unwrap();
    let deleted = Instant::now();
    for pod in &proxied.fleet.pods {
        pod.wait_without("chat").await;
    }
    println!("deleted by hand: the last pod has ended it after {:.1} s", deleted.elapsed().as_secs_f64());
    proxied.fleet.apply("chat", &spec("llama")).await;
    proxied.fleet.wait_rolled_out("chat").await;
}
