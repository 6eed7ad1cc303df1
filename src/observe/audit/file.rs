//! A file that is appended to, renamed when it is full, and found again when somebody else renamed it.
//!
//! Why no library: `file-rotate` swallows the error of opening a file, so that records vanish and look written, and can
//! panic; `tracing-appender` rotates by time alone.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::clock;

/// Who did what is for the owner's eyes. An existing file keeps the mode that it has.
const MODE: u32 = 0o600;

/// What a power cut may cost, and how long a file that was renamed or removed may go unnoticed.
const SYNC_INTERVAL: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub struct RotatingFile {
    path: PathBuf,
    /// 0: never.
    rotate_bytes: u64,
    keep: u32,
    open: Opened,
    /// A record broke off in the middle: the next begins on a line of its own.
    torn: bool,
    /// Since when something is written and not yet on the disk.
    unsynced: Option<Instant>,
    /// When the path was last compared with the file.
    looked: Instant,
    /// Renaming failed: when, to try again later.
    stuck: Option<Instant>,
}

#[derive(Debug)]
struct Opened {
    file: File,
    /// Device and inode; `None` for what is no regular file (`/dev/stderr`), which is neither renamed nor synced.
    id: Option<(u64, u64)>,
    bytes: u64,
}

fn open(path: &Path) -> io::Result<Opened> {
    if let Ok(found) = fs::metadata(path)
        && (found.file_type().is_fifo() || found.file_type().is_socket())
    {
        // Opening a pipe would wait for its reader.
        return Err(io::Error::new(ErrorKind::InvalidInput, "a pipe or a socket, not a file"));
    }
    let file = OpenOptions::new().append(true).create(true).mode(MODE).open(path)?;
    let found = file.metadata()?;
    let id = found.is_file().then(|| (found.dev(), found.ino()));
    Ok(Opened { file, id, bytes: found.len() })
}

impl RotatingFile {
    pub fn open(path: &Path, rotate_bytes: u64, keep: u32) -> io::Result<Self> {
        let (open, looked) = (open(path)?, clock::instant_now());
        Ok(Self { path: path.to_owned(), rotate_bytes, keep, open, torn: false, unsynced: None, looked, stuck: None })
    }

    /// Appends a line, in a new file if this one is full.
    pub fn write(&mut self, line: &[u8]) -> io::Result<()> {
        let now = clock::instant_now();
        if now.duration_since(self.looked) >= SYNC_INTERVAL {
            self.looked = now;
            if self.is_elsewhere() {
                self.reopen()?;
            }
        }
        let full = self.rotate_bytes > 0 && self.open.bytes > 0 && self.open.bytes + line.len() as u64 > self.rotate_bytes;
        if full && self.open.id.is_some() && self.stuck.is_none_or(|since| now.duration_since(since) >= SYNC_INTERVAL) {
            self.rotate(now);
        }
        self.append(line)?;
        self.unsynced.get_or_insert(now);
        Ok(())
    }

    fn append(&mut self, line: &[u8]) -> io::Result<()> {
        if self.torn {
            self.open.file.write_all(b"\n")?;
            self.open.bytes += 1;
            self.torn = false;
        }
        let mut rest = line;
        while !rest.is_empty() {
            match self.open.file.write(rest) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(count) => {
                    self.open.bytes += count as u64;
                    rest = &rest[count..];
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => {
                    self.torn = rest.len() < line.len();
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Whether the path is no longer this file: renamed by `logrotate`, or removed.
    fn is_elsewhere(&self) -> bool {
        let found = fs::metadata(&self.path).ok().map(|found| (found.dev(), found.ino()));
        self.open.id.is_some() && found != self.open.id
    }

    pub fn reopen(&mut self) -> io::Result<()> {
        let new = open(&self.path)?;
        if new.id.is_none() || new.id != self.open.id {
            let _ = self.sync();
            self.open = new;
            self.torn = false;
        }
        self.stuck = None;
        Ok(())
    }

    /// Renames the full file and those before it, and begins a new one. If that fails, the full one goes on: a file that
    /// is too large is better than a record that is lost.
    fn rotate(&mut self, now: Instant) {
        let _ = self.sync();
        match self.shift().and_then(|()| open(&self.path)) {
            Ok(new) => {
                self.open = new;
                (self.torn, self.stuck) = (false, None);
            }
            Err(error) => {
                if self.stuck.is_none() {
                    tracing::error!(target: "wicketgate::audit", path = %self.path.display(), %error, "the file of the audit trail cannot be rotated; it grows");
                }
                self.stuck = Some(now);
            }
        }
    }

    fn shift(&self) -> io::Result<()> {
        let unless_missing = |result: io::Result<()>| match result {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            other => other,
        };
        // Left over from when more were kept.
        let mut beyond = self.keep + 1;
        while fs::remove_file(self.numbered(beyond)).is_ok() {
            beyond += 1;
        }
        for number in (1..self.keep).rev() {
            unless_missing(fs::rename(self.numbered(number), self.numbered(number + 1)))?;
        }
        unless_missing(fs::rename(&self.path, self.numbered(1)))
    }

    fn numbered(&self, number: u32) -> PathBuf {
        let mut name = OsString::from(&self.path);
        name.push(format!(".{number}"));
        PathBuf::from(name)
    }

    /// How long until what was written should be on the disk.
    pub fn rest(&self) -> Option<Duration> {
        self.unsynced.map(|since| SYNC_INTERVAL.saturating_sub(clock::instant_now().duration_since(since)))
    }

    /// Puts what was written on the disk.
    pub fn sync(&mut self) -> io::Result<()> {
        match self.unsynced.take() {
            Some(_) if self.open.id.is_some() => self.open.file.sync_data(),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn read(path: &Path) -> String {
        fs::read_to_string(path).unwrap_or_default()
    }

    #[test]
    fn a_full_file_is_renamed_and_so_many_are_kept() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("audit.jsonl");
        let numbered = |number| directory.path().join(format!("audit.jsonl.{number}"));
        fs::write(numbered(3), "from when three were kept").unwrap();
        let mut file = RotatingFile::open(&path, 10, 2).unwrap();
        for line in ["one--\n", "two--\n", "three\n", "longer than the limit\n", "four-\n"] {
            file.write(line.as_bytes()).unwrap();
        }
        assert_eq!(read(&path), "four-\n");
        assert_eq!(read(&numbered(1)), "longer than the limit\n");
        assert_eq!(read(&numbered(2)), "three\n");
        assert!(!numbered(3).exists());
        for path in [&path, &numbered(1)] {
            assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
        }
        // What was there at the start counts.
        let mut file = RotatingFile::open(&path, 10, 2).unwrap();
        file.write(b"five-\n").unwrap();
        assert_eq!((read(&path).as_str(), read(&numbered(1)).as_str()), ("five-\n", "four-\n"));
    }

    #[test]
    fn a_file_that_cannot_be_renamed_goes_on() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("audit.jsonl");
        fs::create_dir_all(directory.path().join("audit.jsonl.1/in the way")).unwrap();
        let mut file = RotatingFile::open(&path, 10, 1).unwrap();
        for _ in 0..3 {
            file.write(b"12345678\n").unwrap();
        }
        assert_eq!(read(&path), "12345678\n".repeat(3));
    }

    #[test]
    fn a_file_that_somebody_else_renamed_is_left_behind() {
        let directory = tempfile::tempdir().unwrap();
        let (path, renamed) = (directory.path().join("a"), directory.path().join("b"));
        let mut file = RotatingFile::open(&path, 0, 1).unwrap();
        file.write(b"1\n").unwrap();
        fs::rename(&path, &renamed).unwrap();
        file.write(b"2\n").unwrap();
        // Unasked within a second; at once when asked.
        file.looked -= SYNC_INTERVAL;
        file.write(b"3\n").unwrap();
        assert_eq!((read(&renamed).as_str(), read(&path).as_str()), ("1\n2\n", "3\n"));
        fs::remove_file(&path).unwrap();
        file.reopen().unwrap();
        file.write(b"4\n").unwrap();
        assert_eq!(read(&path), "4\n");
    }

    #[test]
    fn a_record_after_a_torn_one_begins_on_its_own_line() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a");
        let mut file = RotatingFile::open(&path, 0, 1).unwrap();
        file.append(b"{\"half").unwrap();
        file.torn = true;
        file.write(b"{}\n").unwrap();
        assert_eq!(read(&path), "{\"half\n{}\n");
    }

    #[test]
    fn a_device_is_neither_renamed_nor_synced_and_a_pipe_is_not_opened() {
        let mut file = RotatingFile::open(Path::new("/dev/null"), 1, 1).unwrap();
        for _ in 0..3 {
            file.write(b"xx\n").unwrap();
        }
        file.sync().unwrap();
        assert!(Path::new("/dev/null").exists());
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("socket");
        let _held = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        assert!(RotatingFile::open(&socket, 1, 1).is_err());
    }
}
