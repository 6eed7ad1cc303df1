//! Listening to a channel over lost connections.

use std::time::Duration;

use futures_util::StreamExt;
use redis::Client;
use redis::aio::PubSub;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::time::{sleep, timeout};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// A silent channel and a dead connection look alike; the server is asked this often which it is.
const PING_INTERVAL: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(500);
/// Messages that wait for their reader. Beyond it the server's are left where they are.
const WAITING_MAX: usize = 1024;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Listening from here on. What was said before, or while the connection was away, has to be read by other means.
    Listening,
    Message(String),
}

/// It ends when it is dropped.
#[derive(Debug)]
pub struct Subscription {
    events: Receiver<Event>,
    task: tokio::task::AbortHandle,
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Subscription {
    pub(super) fn start(client: Client, name: String) -> Self {
        let (sender, events) = channel(WAITING_MAX);
        let task = tokio::spawn(listen(client, name, sender)).abort_handle();
        Self { events, task }
    }

    /// The next event. It waits for as long as there is none.
    pub async fn next(&mut self) -> Option<Event> {
        self.events.recv().await
    }
}

async fn listen(client: Client, name: String, events: Sender<Event>) {
    loop {
        let connected = timeout(CONNECT_TIMEOUT, connect(&client, &name)).await;
        if let Ok(Ok(pubsub)) = connected {
            if events.send(Event::Listening).await.is_err() {
                return;
            }
            pass_on(pubsub, &events).await;
        }
        if events.is_closed() {
            return;
        }
        sleep(PAUSE).await;
    }
}

async fn connect(client: &Client, name: &str) -> redis::RedisResult<PubSub> {
    let mut pubsub = client.get_async_pubsub().await?;
    pubsub.subscribe(name).await?;
    Ok(pubsub)
}

/// Returns when the connection is lost.
async fn pass_on(pubsub: PubSub, events: &Sender<Event>) {
    let (mut sink, mut messages) = pubsub.split();
    loop {
        tokio::select! {
            message = messages.next() => {
                let Some(message) = message else { return };
                let Ok(text) = message.get_payload::<String>() else { continue };
                if events.send(Event::Message(text)).await.is_err() {
                    return;
                }
            }
            () = sleep(PING_INTERVAL) => {
                if !matches!(timeout(CONNECT_TIMEOUT, sink.ping::<redis::Value>()).await, Ok(Ok(_))) {
                    return;
                }
            }
        }
    }
}
