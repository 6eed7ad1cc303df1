//! Just enough of RFC 6455 for short messages that are given back, and a close on both sides.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

pub const TEXT: u8 = 1;
pub const CLOSE: u8 = 8;

/// Reads one short frame: its opcode and what it carries.
pub async fn read_frame(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<(u8, Vec<u8>)> {
    let mut head = [0; 2];
    stream.read_exact(&mut head).await?;
    assert!(head[0] & 0x80 != 0 && head[1] & 0x7f < 126, "only short, whole messages are sent here: {head:?}");
    let mut mask = [0; 4];
    if head[1] & 0x80 != 0 {
        stream.read_exact(&mut mask).await?;
    }
    let mut payload = vec![0; usize::from(head[1] & 0x7f)];
    stream.read_exact(&mut payload).await?;
    for (i, byte) in payload.iter_mut().enumerate() {
        *byte ^= mask[i % 4];
    }
    Ok((head[0] & 0x0f, payload))
}

/// Writes one short frame; clients mask theirs.
pub async fn write_frame(stream: &mut (impl AsyncWrite + Unpin), opcode: u8, payload: &[u8], mask: Option<[u8; 4]>) -> io::Result<()> {
    let length = u8::try_from(payload.len()).unwrap();
    let mut frame = vec![0x80 | opcode, length | if mask.is_some() { 0x80 } else { 0 }];
    frame.extend_from_slice(&mask.unwrap_or_default()[..if mask.is_some() { 4 } else { 0 }]);
    let mask = mask.unwrap_or_default();
    frame.extend(payload.iter().enumerate().map(|(i, byte)| byte ^ mask[i % 4]));
    stream.write_all(&frame).await?;
    stream.flush().await
}

/// The server's side: what comes goes back.
pub async fn echo(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    while let Ok((opcode, payload)) = read_frame(&mut stream).await {
        if write_frame(&mut stream, opcode, &payload, None).await.is_err() || opcode == CLOSE {
            break;
        }
    }
    let _ = stream.shutdown().await;
}
