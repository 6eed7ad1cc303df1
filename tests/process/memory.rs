//! What open connections cost of the machine's memory.
#![cfg(target_os = "linux")]

use http::Request;

use super::child::Process;
use super::support::*;

fn status(process: &Process, name: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim();
    line.split(' ').next().unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_http2_connection_holds_the_pages_that_it_touched_and_no_more() {
    const CONNECTIONS: u64 = 400;
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let process = Process::run(&gate(&issuer, &upstream).yaml()).await.ready().await;
    let ask = async || {
        let mut client = Http2::open(process.address).await;
        let request = Request::get(format!("http://{}/public/page", process.address)).body(()).unwrap();
        assert_eq!(client.send(request).await.status, 200);
        client
    };
    // What is made once, before it counts.
    drop(ask().await);
    let before = status(&process, "VmRSS:");

    let mut clients = Vec::new();
    for _ in 0..CONNECTIONS {
        clients.push(ask().await);
    }

    let each = status(&process, "VmRSS:").saturating_sub(before) / CONNECTIONS;
    assert!(each <= 30, "{each} KiB each");
    assert_eq!(status(&process, "THP_enabled:"), 0, "the kernel may make huge pages of them");
}
