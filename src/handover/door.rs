//! The socket at which the running process waits for the next one. Nobody but its own user gets in.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tokio::net::UnixListener;

use super::wire::Link;

/// For the owner alone.
const MODE: u32 = 0o600;

/// A bound one. Its file goes with it, unless it is another process's.
pub struct Door {
    path: PathBuf,
    listener: UnixListener,
    /// Whether the file is this process's.
    own: bool,
}

impl Drop for Door {
    fn drop(&mut self) {
        if self.own {
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl Door {
    /// Takes the place of a file that a killed process left. It is made under another name and renamed, so that nobody meets
    /// it before its mode is set. Whoever holds the place is asked first, by [`super::Predecessor::find`].
    pub fn bind(path: &Path) -> Result<Self, String> {
        let bind = || {
            if let Ok(found) = fs::symlink_metadata(path)
                && !found.file_type().is_socket()
            {
                return Err(io::Error::new(io::ErrorKind::AlreadyExists, "a file that is no socket stands there"));
            }
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let making = path.with_file_name(format!(".{name}.{}", std::process::id()));
            let _ = fs::remove_file(&making);
            let listener = UnixListener::bind(&making)?;
            fs::set_permissions(&making, fs::Permissions::from_mode(MODE))?;
            fs::rename(&making, path)?;
            Ok(listener)
        };
        let listener = bind().map_err(|error| format!("upgrade.socket {}: {error}", path.display()))?;
        Ok(Self { path: path.to_owned(), listener, own: true })
    }

    /// The one of the process before, whose file it is until [`Self::own`].
    pub fn inherit(path: &Path, descriptor: OwnedFd) -> Result<Self, String> {
        let listener = std::os::unix::net::UnixListener::from(descriptor);
        let listener = listener.set_nonblocking(true).and_then(|()| UnixListener::from_std(listener));
        let listener = listener.map_err(|error| format!("upgrade.socket {}: {error}", path.display()))?;
        Ok(Self { path: path.to_owned(), listener, own: false })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }

    /// From here on the file is this process's.
    pub fn own(&mut self) {
        self.own = true;
    }

    /// From here on the file is another process's.
    pub fn leave(mut self) {
        self.own = false;
    }

    /// The next process of the same user that comes.
    pub async fn knock(&self) -> Link {
        loop {
            let link = match self.listener.accept().await {
                Ok((stream, _)) => Link::new(stream),
                Err(error) => {
                    tracing::warn!(target: "wicketgate::handover", %error, "the upgrade socket fails");
                    tokio::time::sleep(super::wire::STEP_TIMEOUT).await;
                    continue;
                }
            };
            match link.user() {
                Ok(user) if user == own_user() => return link,
                other => {
                    tracing::warn!(target: "wicketgate::handover", user = other.ok(), "refused at the upgrade socket: another user");
                }
            }
        }
    }
}

/// The user that this process runs as.
pub fn own_user() -> u32 {
    rustix::process::geteuid().as_raw()
}
