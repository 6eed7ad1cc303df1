//! What is revoked, as it goes between the two processes: all of it at first, and then what changes on either side.

use std::io;

use super::wire::{Link, Message};
use crate::revocation::{Revocations, Told};

/// Sends what the other side does not know yet.
pub async fn tell(link: &Link, revocations: &Revocations, told: &mut Told) -> io::Result<()> {
    for piece in revocations.untold_to(told) {
        link.send(&Message::Known(piece)).await?;
    }
    Ok(())
}

/// For as long as both processes live, each tells the other what it revokes and lifts. Ends with the first of them.
pub async fn follow(link: &Link, revocations: &Revocations, told: Told) {
    let told = tokio::sync::Mutex::new(told);
    let mut changes = revocations.changes();
    let telling = async {
        loop {
            changes.borrow_and_update();
            let pieces = revocations.untold_to(&mut *told.lock().await);
            for piece in pieces {
                if link.send(&Message::Known(piece)).await.is_err() {
                    return;
                }
            }
            if changes.changed().await.is_err() {
                return;
            }
        }
    };
    let hearing = async {
        while let Ok(Some((message, _))) = link.receive().await {
            if let Message::Known(piece) = message {
                revocations.take_carried(piece, &mut *told.lock().await);
            }
        }
    };
    tokio::select! {
        () = telling => {}
        () = hearing => {}
    }
}
