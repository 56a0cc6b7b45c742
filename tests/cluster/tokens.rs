//! Tokens that the apiserver takes for nobody's any more: pods serve on and say so, and go on by themselves when there are better
//! ones.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::eventually;
use crate::plane::ControlPlane;
use crate::proxied::Proxied;
use crate::proxy::Behaviour;

/// Two pods and a controller try each of seven watches every ten seconds at the most in the long run, and the lease every two.
const MOST_REQUESTS: usize = 60;

/// The files with the tokens of the pods and of the controller.
fn token_files(proxied: &Proxied) -> Vec<PathBuf> {
    let holders = ["gateway-0", "gateway-1", "controller"];
    holders.map(|holder| proxied.fleet.namespace.folder.join(format!("{holder}.token"))).into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_has_expired_is_told_of_and_a_new_one_is_found() {
    let mut proxied = Proxied::start(ControlPlane::shared().await, "tokens", 2).await;
    let files = token_files(&proxied);
    let good: Vec<String> = files.iter().map(|file| std::fs::read_to_string(file).unwrap()).collect();
    proxied.traffic.phase("expired");
    for (file, token) in files.iter().zip(&good) {
        // As the apiserver sees it, no difference to one whose time is over: it is not valid.
        std::fs::write(file, &token[..token.len() - 8]).unwrap();
    }
    let expired = Instant::now();
    // What is open stays open, as it would for a token that runs out. The file is read again once a minute.
    eventually("a token that is refused", async || {
        proxied.proxy.set(Behaviour::EndsWatches);
        let refused = "watch_errors_total{code=\"401\",resource=\"models\"}";
        proxied.fleet.pods[0].metrics().await?.contains(refused).then_some(())
    })
    .await;
    proxied.proxy.set(Behaviour::Good);
    proxied.is_told("401").await;
    println!("told {:.1} s after the tokens were replaced", expired.elapsed().as_secs_f64());
    proxied.update().await;
    let asked = proxied.proxy.asked_within(Duration::from_secs(6)).await;
    println!("expired: {asked:?} in 6 s");
    assert!(asked.of("") <= MOST_REQUESTS, "{asked:?}");
    proxied.traffic.wait_answers(20).await;
    proxied.traffic.phase("new tokens");
    for (file, token) in files.iter().zip(&good) {
        std::fs::write(file, token).unwrap();
    }
    proxied.recover("tokens that had expired").await;
    assert_eq!(proxied.traffic.stop().await.verdict(), Ok(()));
}
