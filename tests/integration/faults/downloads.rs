//! A model that comes over a bad line, or onto a disk that is full, while another one serves.

use inference_gateway::model::manifest::{Digest, Manifest};

use super::*;
use crate::tricky_server::{Page, Server, Trick};

/// What a gateway needs to fetch from a server of this machine, and to find out soon that it stalls.
const FLAGS: [&str; 4] = [
    "--allowed-hosts=127.0.0.1",
    "--insecure-hosts=127.0.0.1",
    "--allowed-private-networks=127.0.0.0/8",
    "--stall-timeout=1s",
];

/// A server of tiny/gpt2 with its manifest.
struct Remote {
    server: Server,
    digest: Digest,
    /// Of the graph, the largest file.
    bytes: usize,
    folder: tempfile::TempDir,
}

impl Remote {
    async fn start() -> Self {
        let folder = copy("gpt2");
        let digest = Manifest::of_folder(folder.path()).unwrap().write(folder.path()).unwrap();
        let remote = Self { server: Server::start().await, digest, bytes: 0, folder };
        let bytes = remote.publish("one");
        Self { bytes, ..remote }
    }

    /// Puts every file on the server, under a version; returns the bytes of the graph.
    fn publish(&self, version: &str) -> usize {
        for file in std::fs::read_dir(self.folder.path()).unwrap() {
            let file = file.unwrap();
            let name = file.file_name().into_string().unwrap();
            let body = std::fs::read(file.path()).unwrap();
            self.server.put(&format!("/m/{name}"), Page::file(&body, &format!("{version}-{name}")));
        }
        std::fs::metadata(self.folder.path().join("model.onnx")).unwrap().len() as usize
    }

    fn entry(&self) -> String {
        let source = format!("{{url: '{}', digest: '{}'}}", self.server.url("/m/manifest.json"), self.digest);
        sourced(&source, "")
    }

    /// Bytes of the graph that were sent.
    fn sent(&self) -> usize {
        let graph = self.server.downloads().into_iter().filter(|seen| seen.path == "/m/model.onnx");
        graph.map(|seen| seen.sent_bytes).sum()
    }
}

/// Over a line on which the first GETs go as `tricks` say, the model comes into service; returns what was sent of it.
async fn comes_into_service_after(tricks: Vec<Trick>) -> usize {
    let (list, gateway) = serving(&FLAGS).await;
    let client = Background::across_a_swap_to(&gateway, "gpt2").await;
    let remote = Remote::start().await;
    remote.server.play(tricks);
    applied(&list, &gateway, &remote.entry()).await;
    client.saw_no_failure().await;
    remote.sent()
}

/// Row 13.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_download_that_is_cut_in_the_middle_goes_on_there() {
    let remote = Remote::start().await;
    let half = remote.bytes / 2;
    // The manifest, and then the graph or a file too small to be cut there.
    let tricks = [vec![Trick::None], vec![Trick::CutAfter(half); 5]].concat();
    let sent = comes_into_service_after(tricks).await;
    assert!(sent <= remote.bytes, "{sent} bytes were sent for a file of {}", remote.bytes);
}

/// Row 13.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_download_that_stalls_or_trickles_is_broken_off_and_goes_on() {
    comes_into_service_after(vec![Trick::None, Trick::StallAfter(1000)]).await;
    comes_into_service_after(vec![Trick::None, Trick::Drip]).await;
}

/// Row 13.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_fails_for_a_while_is_asked_again() {
    let busy = Trick::Status(503, "Retry-After: 1\r\n");
    comes_into_service_after(vec![Trick::Status(500, ""), busy, Trick::None, Trick::Status(500, "")]).await;
}

/// Row 13.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_part_of_the_wrong_place_or_of_another_version_is_thrown_away() {
    let remote = Remote::start().await;
    let half = remote.bytes / 2;
    for lie in [Trick::WrongRange, Trick::OtherVersionRange] {
        let cuts = vec![Trick::CutAfter(half); 5];
        comes_into_service_after([vec![Trick::None], cuts, vec![lie]].concat()).await;
    }
}

/// Row 13, the version changes while it comes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_whose_version_changes_in_the_middle_begins_anew() {
    let (list, gateway) = serving(&FLAGS).await;
    let client = Background::across_a_swap_to(&gateway, "gpt2").await;
    let remote = Remote::start().await;
    remote.server.play([vec![Trick::None], vec![Trick::StallAfter(remote.bytes / 2); 5]].concat());
    list.write(&remote.entry());
    gateway.reload();
    remote.server.has_stalled().await;
    remote.publish("two");
    wait(&gateway, |model| {
        model["state"] == "ready" && model["serving"] == model["revision"] && model["download"].is_null()
    })
    .await;
    client.saw_no_failure().await;
}

/// Row 13, and what arrives is not what was ordered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_bytes_than_those_of_the_digest_never_serve() {
    let (list, gateway) = serving(&FLAGS).await;
    let client = Background::start(&gateway).await;
    let remote = Remote::start().await;
    remote.server.play([vec![Trick::None], vec![Trick::Corrupt; 20]].concat());
    let told = refused(&list, &gateway, &remote.entry()).await;
    assert!(told.starts_with("DigestMismatch: "), "{told}");
    client.saw_no_failure().await;
}

/// Row 7: archives are not unpacked, and a manifest names no file elsewhere.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn archives_and_names_that_lead_elsewhere_are_refused() {
    let (list, gateway) = serving(&FLAGS).await;
    let client = Background::start(&gateway).await;
    let remote = Remote::start().await;
    let digest = |manifest: &str| Digest::of(manifest.as_bytes());
    let listed = |name: &str| json!([{"name": name, "size": 1, "sha256": "0".repeat(64)}]).to_string();
    let long = "x".repeat(4096);
    for name in ["../model.onnx", "/etc/model.onnx", "a/../../model.onnx", "model.onnx\u{0}", long.as_str()] {
        let manifest = listed(name);
        remote
            .server
            .put("/m/manifest.json", Page::file(manifest.as_bytes(), &digest(&manifest).digits()[..8]));
        let source =
            format!("{{url: '{}', digest: '{}'}}", remote.server.url("/m/manifest.json"), digest(&manifest));
        let told = refused(&list, &gateway, &sourced(&source, "")).await;
        assert!(told.starts_with("ArchiveUnsafe: "), "{name:?}: {told}");
    }
    let archive = format!("{{url: '{}', digest: '{}'}}", remote.server.url("/m/model.tar.gz"), remote.digest);
    remote.server.put("/m/model.tar.gz", Page::file(b"\x1f\x8b\x08 an archive", "archive"));
    let told = refused(&list, &gateway, &sourced(&archive, "")).await;
    assert!(told.starts_with("ArchiveUnsafe: "), "{told}");
    client.saw_no_failure().await;
}

/// Row 8: what never ends, or is longer than it was said to be, is stopped there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_bytes_than_were_declared_are_not_taken() {
    let (list, gateway) = serving(&FLAGS).await;
    let client = Background::start(&gateway).await;
    let remote = Remote::start().await;
    // The manifest says how long each file is.
    remote.server.play([vec![Trick::None], vec![Trick::Endless; 20]].concat());
    let told = refused(&list, &gateway, &remote.entry()).await;
    assert!(told.starts_with("ArtifactTooLarge: "), "{told}");
    let cache = std::fs::read_dir(list.path().parent().unwrap().join("cache/models")).unwrap().count();
    assert_eq!(cache, 1, "only what serves is in the store");
    client.saw_no_failure().await;
}

/// Row 17: two gateways on one folder download once, and both serve.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_gateways_on_one_cache_download_once_and_both_serve() {
    let remote = Remote::start().await;
    let shared = tempfile::tempdir().unwrap();
    let cache = format!("--cache-dir={}", shared.path().display());
    let lists = [(); 2].map(|()| ModelsList::new(&model(&tiny("llama"), "")));
    let mut gateways = Vec::new();
    for list in &lists {
        let gateway = list.gateway(&[FLAGS.as_slice(), &[cache.as_str()]].concat()).await;
        gateway.wait_ready().await;
        let client = Background::across_a_swap_to(&gateway, "gpt2").await;
        gateways.push((gateway, client));
    }
    for (list, (gateway, _)) in lists.iter().zip(&gateways) {
        list.write(&remote.entry());
        gateway.reload();
    }
    for (gateway, client) in gateways {
        wait(&gateway, |model| model["state"] == "ready" && model["serving"] == model["revision"]).await;
        client.saw_no_failure().await;
    }
    assert_eq!(remote.sent(), remote.bytes, "the graph was sent once");
}

/// A file system of a few megabytes, in memory.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount(bytes: usize) -> Self {
        let disk = Self(tempfile::tempdir().unwrap());
        let size = format!("size={bytes}");
        let mounted = disk.command("mount", &["-t", "tmpfs", "-o", &size, "tmpfs"]);
        assert!(mounted, "mounting a tmpfs failed: this test needs root and CAP_SYS_ADMIN");
        disk
    }

    fn command(&self, program: &str, arguments: &[&str]) -> bool {
        let status = std::process::Command::new(program).args(arguments).arg(self.0.path()).status();
        status.is_ok_and(|status| status.success())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        assert!(self.command("umount", &["-l"]), "the small disk stays mounted");
    }
}

/// Row 15.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_is_told_and_costs_nothing_once_there_is_space_again() {
    let disk = SmallDisk::mount(6 << 20);
    let list = ModelsList::new(&model(&tiny("llama"), ""));
    let cache = format!("--cache-dir={}", disk.0.path().join("cache").display());
    let gateway = list.gateway(&[FLAGS.as_slice(), &[cache.as_str()]].concat()).await;
    gateway.wait_ready().await;
    let client = Background::across_a_swap_to(&gateway, "gpt2").await;
    let filler = write(disk.0.path(), "filler", b"");
    // As much as fits.
    let mut file = std::fs::File::create(&filler).unwrap();
    while std::io::Write::write_all(&mut file, &[0; 4096]).is_ok() {}
    let remote = Remote::start().await;
    for entry in [model(&tiny("gpt2"), ""), remote.entry()] {
        list.write(&entry);
        gateway.reload();
        let waits = wait(&gateway, |model| {
            model["reason"]
                .as_str()
                .is_some_and(|why| why.starts_with("DiskFull: ") && why.contains("tried again"))
        });
        waits.await;
    }
    std::fs::remove_file(filler).unwrap();
    drop(file);
    wait(&gateway, |model| model["state"] == "ready" && model["serving"] == model["revision"]).await;
    client.saw_no_failure().await;
}

/// Row 15: nothing can be written at all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cache_that_cannot_be_written_is_told() {
    let disk = SmallDisk::mount(6 << 20);
    assert!(disk.command("mount", &["-o", "remount,ro"]), "the small disk cannot be made read-only");
    let list = ModelsList::new(&crate::harness::entry("chat", &tiny("llama"), ""));
    let cache = format!("--cache-dir={}", disk.0.path().join("cache").display());
    let gateway = list.gateway(&[cache.as_str()]).await;
    gateway.wait_ready().await;
    let client = Background::across_a_swap_to(&gateway, "gpt2").await;
    list.write(&model(&tiny("gpt2"), ""));
    gateway.reload();
    wait(&gateway, |model| model["reason"].as_str().is_some_and(|why| why.starts_with("CacheUnusable: ")))
        .await;
    assert!(disk.command("mount", &["-o", "remount,rw"]));
    wait(&gateway, |model| model["state"] == "ready" && model["serving"] == model["revision"]).await;
    client.saw_no_failure().await;
}
