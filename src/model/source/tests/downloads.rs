//! One file over a bad line: what is resumed, what starts again, what is given up.

use std::time::Duration;

use super::server::{Page, Server, Trick};
use super::{FetchError, Place, Progress, bytes, read};
use crate::model::Reason;
use crate::model::spec::Source;

const LENGTH: usize = 300_000;
const MODEL: &str = "/m/model.onnx";

async fn setup(tricks: impl IntoIterator<Item = Trick>) -> (Server, Place, Vec<u8>) {
    let server = Server::start().await;
    let body = bytes(LENGTH, 1);
    server.put(MODEL, Page::file(&body, "v1"));
    server.play(tricks);
    (server, Place::without_hub(), body)
}

/// The attempt fails in passing, and leaves no final file.
async fn fails_in_passing(place: &Place, source: &str) -> FetchError {
    let error = place.graph(source).await.unwrap_err();
    assert!(!error.is_permanent(), "{error}");
    assert_eq!(place.final_files(), Vec::<String>::new());
    error
}

#[tokio::test]
async fn a_file_is_downloaded_once_and_then_only_compared() {
    let (server, place, body) = setup([]).await;
    let graph = place.graph(&server.url(MODEL)).await.unwrap();
    assert_eq!(read(&graph), body);
    assert_eq!(graph.file_name().unwrap(), "model.onnx");
    assert_eq!(graph.parent().unwrap().file_name().unwrap().len(), 16);
    assert_eq!(place.graph(&server.url(MODEL)).await.unwrap(), graph);
    assert_eq!(server.downloads().len(), 1);
    assert!(!place.all_files().iter().any(|name| name.contains(".partial")), "{:?}", place.all_files());
}

#[tokio::test]
async fn a_changed_file_replaces_the_old_one() {
    let (server, place, _) = setup([]).await;
    place.graph(&server.url(MODEL)).await.unwrap();
    let other = bytes(1000, 9);
    server.put(MODEL, Page::file(&other, "v2"));
    assert_eq!(read(&place.graph(&server.url(MODEL)).await.unwrap()), other);
}

#[tokio::test]
async fn a_file_that_is_here_is_used_when_the_server_is_gone() {
    let (server, place, body) = setup([]).await;
    let url = server.url(MODEL);
    place.graph(&url).await.unwrap();
    drop(server);
    assert_eq!(read(&place.graph(&url).await.unwrap()), body);
}

#[tokio::test]
async fn weights_beside_the_graph_come_with_it() {
    let (server, place, _) = setup([]).await;
    let weights = bytes(5000, 3);
    server.put("/m/model.onnx_data", Page::file(&weights, "w"));
    let graph = place.graph(&server.url(MODEL)).await.unwrap();
    assert_eq!(read(&graph.with_file_name("model.onnx_data")), weights);
    assert!(!graph.with_file_name("model.onnx.data").exists());
}

#[tokio::test]
async fn the_other_graph_of_a_pair_comes_with_the_one_that_was_asked_for() {
    let (server, _, _) = setup([]).await;
    let pair = ["decoder_model", "decoder_with_past_model"];
    let names = pair.iter().flat_map(|name| [format!("{name}.onnx"), format!("{name}.onnx_data")]);
    for name in names.clone() {
        server.put(&format!("/m/{name}"), Page::file(name.as_bytes(), "v"));
    }
    for asked in pair {
        let place = Place::without_hub();
        let graph = place.graph(&server.url(&format!("/m/{asked}.onnx"))).await.unwrap();
        assert_eq!(graph.file_stem().unwrap(), asked);
        for name in names.clone() {
            assert_eq!(read(&graph.with_file_name(&name)), name.as_bytes(), "{asked}");
        }
    }
}

#[tokio::test]
async fn weights_that_fail_in_passing_keep_the_graph_away() {
    let (server, place, _) = setup([Trick::CutAfter(100)]).await;
    server.put("/m/model.onnx_data", Page::file(&bytes(5000, 3), "w"));
    fails_in_passing(&place, &server.url(MODEL)).await;
}

#[tokio::test]
async fn a_cut_connection_is_resumed_and_only_the_rest_is_sent() {
    let (server, place, body) = setup([Trick::CutAfter(100_000)]).await;
    let error = fails_in_passing(&place, &server.url(MODEL)).await;
    assert!(matches!(error, FetchError::Connection { received_bytes: 100_000, .. }), "{error:?}");
    assert_eq!(error.reason(), Reason::TruncatedDownload);
    assert_eq!(place.partial_bytes(), 100_000);
    assert_eq!(read(&place.graph(&server.url(MODEL)).await.unwrap()), body);
    let second = &server.downloads()[1];
    assert_eq!(second.headers["range"], "bytes=100000-");
    assert_eq!(second.headers["if-range"], "\"v1\"");
    assert_eq!(second.sent_bytes, LENGTH - 100_000);
}

#[tokio::test]
async fn a_dropped_fetch_is_resumed_by_the_next_process() {
    let (server, place, body) = setup([Trick::StallAfter(100_000)]).await;
    let source = Source::parse(&server.url(MODEL)).unwrap();
    let (fetcher, progress) = (place.fetcher(), Progress::default());
    let arrived = async {
        server.has_stalled().await;
        while progress.read().done_bytes < 100_000 {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        finished = fetcher.model_files(&source, &progress) => panic!("{finished:?}"),
        () = arrived => {}
    }
    assert_eq!(place.final_files(), Vec::<String>::new());
    assert_eq!(read(&place.graph(&server.url(MODEL)).await.unwrap()), body);
    let second = &server.downloads()[1];
    assert_eq!(second.headers["range"], "bytes=100000-");
    assert_eq!(second.sent_bytes, LENGTH - 100_000);
}

#[tokio::test]
async fn a_partial_file_that_is_already_whole_needs_no_byte() {
    let (server, place, body) = setup([Trick::StallAfter(LENGTH), Trick::None]).await;
    // The server claims one byte more than it has, then the truth: all bytes are here, the file is not published.
    let mut longer = Page::file(&body, "v1");
    longer.body.push(0);
    server.put(MODEL, longer);
    let mut impatient = place.settings.clone();
    impatient.stall_timeout = Duration::from_millis(200);
    let place = Place { settings: impatient, ..place };
    fails_in_passing(&place, &server.url(MODEL)).await;
    server.put(MODEL, Page::file(&body, "v1"));
    assert_eq!(read(&place.graph(&server.url(MODEL)).await.unwrap()), body);
    let sent: Vec<usize> = server.downloads().iter().map(|seen| seen.sent_bytes).collect();
    assert_eq!(sent, [LENGTH, 0], "one answer without a body was enough");
}

#[tokio::test]
async fn a_range_that_does_not_fit_starts_again_from_zero() {
    for trick in [Trick::WrongRange, Trick::IgnoreRange] {
        let (server, place, body) = setup([Trick::CutAfter(100_000), trick]).await;
        fails_in_passing(&place, &server.url(MODEL)).await;
        assert_eq!(read(&place.graph(&server.url(MODEL)).await.unwrap()), body);
        assert_eq!(server.downloads().last().unwrap().sent_bytes, LENGTH);
    }
}

#[tokio::test]
async fn a_version_that_changes_midway_starts_again_from_zero() {
    for (trick, length) in [(Trick::None, 60_000), (Trick::None, LENGTH), (Trick::OtherVersionRange, LENGTH)]
    {
        let (server, place, _) = setup([Trick::CutAfter(100_000), trick]).await;
        fails_in_passing(&place, &server.url(MODEL)).await;
        let other = bytes(length, 77);
        server.put(MODEL, Page::file(&other, "v2"));
        assert_eq!(read(&place.graph(&server.url(MODEL)).await.unwrap()), other);
    }
}

#[tokio::test]
async fn a_file_without_a_version_is_never_resumed() {
    for headers in [vec![], vec![("ETag", "W/\"v1\"".to_owned())]] {
        let (server, place, body) = setup([Trick::CutAfter(100_000)]).await;
        server.put(MODEL, Page { body: body.clone(), status: 200, headers });
        fails_in_passing(&place, &server.url(MODEL)).await;
        assert_eq!(read(&place.graph(&server.url(MODEL)).await.unwrap()), body);
        assert!(server.downloads().iter().all(|seen| !seen.headers.contains_key("range")));
    }
}

#[tokio::test]
async fn silence_and_single_bytes_end_the_attempt() {
    for trick in [Trick::StallAfter(100_000), Trick::Drip] {
        let (server, mut place, _) = setup([trick]).await;
        place.settings.stall_timeout = Duration::from_millis(200);
        let error = place.graph(&server.url(MODEL)).await.unwrap_err();
        assert!(matches!(error, FetchError::Stalled { .. }), "{error:?}");
        assert_eq!((error.is_permanent(), error.reason().label()), (false, "SourceUnreachable"));
        assert_eq!(place.final_files(), Vec::<String>::new());
    }
}

#[tokio::test]
async fn a_server_in_trouble_works_later_and_says_when() {
    let trouble = [
        Trick::Status(500, ""),
        Trick::Status(429, "Retry-After: 7\r\n"),
        Trick::Status(503, "Retry-After: Mon\r\n"),
    ];
    let (server, place, body) = setup(trouble).await;
    for wait in [None, Some(Duration::from_secs(7)), None] {
        assert_eq!(fails_in_passing(&place, &server.url(MODEL)).await.retry_after(), wait);
    }
    assert_eq!(read(&place.graph(&server.url(MODEL)).await.unwrap()), body);
}

#[tokio::test]
async fn refusals_are_permanent_and_say_what_to_do() {
    for (status, label) in
        [(401, "SourceForbidden"), (403, "SourceForbidden"), (404, "SourceNotFound"), (400, "SourceNotFound")]
    {
        let (server, place, _) = setup([Trick::Status(status, "")]).await;
        let error = place.graph(&server.url(MODEL)).await.unwrap_err();
        assert!(error.is_permanent(), "{error}");
        assert_eq!(error.reason().label(), label);
        assert!(error.to_string().contains(&server.url(MODEL)), "{error}");
        assert_eq!(place.all_files(), Vec::<String>::new());
    }
}

#[tokio::test]
async fn a_file_over_the_limit_is_refused_by_its_length_or_at_the_limit() {
    let (server, mut place, _) = setup([Trick::None, Trick::Endless]).await;
    place.settings.maximum_file_bytes = (LENGTH - 1) as u64;
    for _ in 0..2 {
        let error = place.graph(&server.url(MODEL)).await.unwrap_err();
        assert!(matches!(error, FetchError::TooLarge { .. }), "{error:?}");
        assert!(error.is_permanent());
        assert_eq!(place.all_files(), Vec::<String>::new(), "nothing is left to fill the disk");
    }
}

#[tokio::test]
async fn two_fetches_of_one_file_are_one_download() {
    let (server, place, body) = setup([]).await;
    let url = server.url(MODEL);
    let fetches = (0..4).map(|_| place.graph(&url));
    for graph in futures_util::future::join_all(fetches).await {
        assert_eq!(read(&graph.unwrap()), body);
    }
    assert_eq!(server.downloads().len(), 1);
}

#[tokio::test]
async fn a_held_lock_is_waited_for_and_passes_on_with_its_holder() {
    let (server, place, body) = setup([Trick::StallAfter(100_000)]).await;
    let (source, progress) = (Source::parse(&server.url(MODEL)).unwrap(), Progress::default());
    let (first, second) = (place.fetcher(), place.fetcher());
    let mut waiting = Box::pin(second.model_files(&source, &progress));
    {
        let ignored = Progress::default();
        let mut holding = Box::pin(first.model_files(&source, &ignored));
        tokio::select! {
            finished = &mut holding => panic!("{finished:?}"),
            () = server.has_stalled() => {}
        }
        let looks = async { tokio::time::timeout(Duration::from_millis(100), &mut waiting).await };
        assert!(looks.await.is_err(), "the second writer must wait");
        assert_eq!(server.downloads().len(), 1);
    }
    let files = tokio::time::timeout(Duration::from_secs(10), waiting).await.unwrap().unwrap();
    assert_eq!(read(&files.graph), body);
}

#[tokio::test]
async fn progress_tells_file_bytes_and_total_while_it_runs() {
    let (server, place, _) = setup([Trick::StallAfter(100_000)]).await;
    let (source, progress) = (Source::parse(&server.url(MODEL)).unwrap(), Progress::default());
    let fetcher = place.fetcher();
    let arrived = async {
        while progress.read().done_bytes < 100_000 {
            tokio::task::yield_now().await;
        }
        progress.read()
    };
    let reading = tokio::select! {
        finished = fetcher.model_files(&source, &progress) => panic!("{finished:?}"),
        reading = arrived => reading,
    };
    assert_eq!(reading.file.as_deref(), Some("model.onnx"));
    assert_eq!((reading.done_bytes, reading.total_bytes), (100_000, Some(LENGTH as u64)));
}
