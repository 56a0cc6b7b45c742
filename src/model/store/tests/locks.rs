//! Several processes on one folder, what the dead leave, and making room.

use std::fs;
use std::time::{Duration, SystemTime};

use super::super::place::Place;
use super::{Bench, Progress, Source, WEIGHTS, Wanted, graph, prepare, refused, text};
use crate::model::source::tests::server::{Page, Server};

#[tokio::test]
async fn what_a_dead_process_left_in_staging_is_removed_and_a_living_ones_is_not() {
    let bench = Bench::new();
    let model = bench.model("chat");
    let staging = bench.cache().join("staging");
    fs::create_dir_all(staging.join("00dead")).unwrap();
    fs::write(staging.join("00dead/model.onnx"), b"half").unwrap();
    fs::write(staging.join("00dead.lock"), b"").unwrap();
    fs::create_dir_all(staging.join("01dead")).unwrap();
    let place = Place::open(&bench.cache()).unwrap();
    assert_eq!(bench.names("staging"), Vec::<String>::new());
    let living = place.staging().unwrap();
    bench.prepare(text(&model)).await.unwrap();
    assert!(living.folder.is_dir());
    drop(living);
    bench.assert_clean();
}

#[tokio::test]
async fn a_source_that_another_process_prepares_is_waited_for_so_long() {
    let bench = Bench::new();
    let model = bench.model("chat");
    let source = Source::Path(model.clone());
    let wanted = Wanted { source: &source, tokenizer: None, digest: None, in_place: false };
    let place = Place::open(&bench.cache()).unwrap();
    let key = super::super::record::key(&wanted);
    let turn = place.turn(&key, "test", Duration::ZERO).await.unwrap();
    let impatient = bench.store().with_patience(Duration::from_millis(50));
    let (reason, permanent, message) = refused(prepare(&impatient, text(&model), None).await);
    assert_eq!((reason, permanent), ("CacheBusy", false), "{message}");
    let (store, progress) = (bench.store(), Progress::default());
    let mut waiting = std::pin::pin!(store.prepare(&wanted, &progress));
    assert!(tokio::time::timeout(Duration::from_millis(50), &mut waiting).await.is_err());
    drop(turn);
    waiting.await.unwrap();
}

#[tokio::test]
async fn a_dropped_prepare_leaves_nothing_and_the_next_one_works() {
    let bench = Bench::new();
    let model = bench.model("chat");
    let store = bench.store();
    for _ in 0..20 {
        let mut dropped = Box::pin(prepare(&store, text(&model), None));
        // As far as it comes without waiting, and once more after a moment.
        for _ in 0..3 {
            tokio::select! {
                biased;
                _ = &mut dropped => break,
                () = tokio::task::yield_now() => {}
            }
        }
    }
    prepare(&store, text(&model), None).await.unwrap();
    // A thread of a dropped one may still be at work; its lock says so.
    let began = SystemTime::now();
    while !bench.names("staging").is_empty() {
        assert!(began.elapsed().unwrap() < Duration::from_secs(30));
        tokio::task::yield_now().await;
    }
    bench.assert_clean();
}

#[tokio::test]
async fn room_is_made_by_age_and_what_is_kept_or_used_stays() {
    let mut bench = Bench::new();
    let mut digests = Vec::new();
    for (age, name) in ["oldest", "old", "kept", "used", "young"].iter().enumerate() {
        let digest = bench.prepare(text(&bench.model(name))).await.unwrap().digest.unwrap();
        let lock = bench.cache().join("locks").join(format!("{}.use", digest.digits()));
        let time = SystemTime::UNIX_EPOCH + Duration::from_hours(1 + age as u64);
        fs::File::options().write(true).open(lock).unwrap().set_modified(time).unwrap();
        digests.push(digest);
    }
    let entry = bench.cache().join("models").join(digests[0].digits());
    let bytes: u64 = fs::read_dir(entry).unwrap().map(|file| file.unwrap().metadata().unwrap().len()).sum();
    assert_eq!(bench.store().prune(&[]).await.unwrap(), 0, "without a limit nothing goes");
    let used = prepare(&bench.store(), text(&bench.folder.path().join("used")), Some(&digests[3])).await;
    let used = used.unwrap().clone();

    bench.limit_bytes = Some(4 * bytes + 1000);
    let freed = bench.store().prune(&[digests[2].clone()]).await.unwrap();
    assert!(freed.abs_diff(bytes) < 1000, "{freed}");
    assert!(!bench.names("models").contains(&digests[0].digits().to_owned()));
    bench.limit_bytes = Some(0);
    assert!(bench.store().prune(&[digests[2].clone()]).await.unwrap() > 2 * WEIGHTS as u64);
    let mut left = [digests[2].digits().to_owned(), digests[3].digits().to_owned()];
    left.sort();
    assert_eq!(bench.names("models"), left);
    drop(used);
    bench.store().prune(&[]).await.unwrap();
    assert_eq!(bench.names("models"), Vec::<String>::new());
    bench.assert_clean();
}

#[tokio::test]
async fn downloads_that_nobody_goes_on_with_are_removed() {
    let bench = Bench::new();
    let downloads = bench.cache().join("downloads");
    for (name, days) in [("old", 8), ("new", 1)] {
        let path = downloads.join(name).join("model.onnx.partial");
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, [0; 100]).unwrap();
        let file = fs::File::options().write(true).open(path).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_hours(24 * days)).unwrap();
    }
    assert_eq!(bench.store().prune(&[]).await.unwrap(), 100);
    assert_eq!(bench.names("downloads"), ["new"]);
}

#[tokio::test]
async fn downloads_that_are_used_where_they_are_stay_as_long_as_they_are_used() {
    let server = Server::start().await;
    server.put("/m/model.onnx", Page::file(&graph(&[]), "v1"));
    server.put("/t/tokenizer.json", Page::file(b"{}", "v1"));
    let bench = Bench::with_hub(&server.address);
    let [source, tokenizer] =
        ["/m/model.onnx", "/t/tokenizer.json"].map(|path| Source::parse(&server.url(path)).unwrap());
    let wanted = Wanted { source: &source, tokenizer: Some(&tokenizer), digest: None, in_place: true };
    let used = bench.store().prepare(&wanted, &Progress::default()).await.unwrap();
    for file in [&used.graph, &used.tokenizer] {
        let file = fs::File::options().write(true).open(file).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_hours(24 * 8)).unwrap();
    }
    bench.store().prune(&[]).await.unwrap();
    assert!(used.graph.is_file() && used.tokenizer.is_file());
    let (graph, tokenizer) = (used.graph.clone(), used.tokenizer.clone());
    drop(used);
    bench.store().prune(&[]).await.unwrap();
    assert!(!graph.exists() && !tokenizer.exists());
}

#[tokio::test]
async fn a_cache_folder_that_cannot_be_used_is_named_with_its_setting() {
    let bench = Bench::new();
    let model = bench.model("chat");
    fs::write(bench.cache(), b"a file").unwrap();
    let (reason, permanent, message) = refused(bench.prepare(text(&model)).await);
    assert_eq!((reason, permanent), ("CacheUnusable", false), "{message}");
    assert!(message.contains("INFERENCE_CACHE_DIR") && message.contains(text(&bench.cache())), "{message}");
}
