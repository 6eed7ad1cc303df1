// What two ends of a WebSocket may say to each other, after the groups of the Autobahn test suite: each case is bytes of a client
// that ends with a close or with a fault that makes the server close.

import { close, deflated, frame } from './frames.mjs';

// Sent when everything before it was echoed: a server may drop an echo once it has read a close.
const later = (bytes) => ({ later: bytes });
const CLOSE = later(close(1000));
const text = (payload, options) => frame(1, payload, options);
const binary = (size) => frame(2, Buffer.alloc(size, 0xfe));
const whole = (...frames) => [Buffer.concat(frames.filter((piece) => !piece.later)), ...frames.filter((piece) => piece.later)];
const chopped = (buffer, size) => Array.from({ length: Math.ceil(buffer.length / size) }, (_, i) => buffer.subarray(i * size, (i + 1) * size));
const fragments = (opcode, parts) => parts.map((part, i) => frame(i === 0 ? opcode : 0, part, { fin: i === parts.length - 1 }));
const MIXED = 'Hello-\u00b5@\u00df\u00f6\u00e4\u00fc\u00e0\u00e1-UTF-8!! \u{1f327}';

export const CASES = {
  ...Object.fromEntries([0, 125, 126, 127, 128, 65_535, 65_536].map((size) => [`1.1 text of ${size} bytes`, whole(text('*'.repeat(size)), CLOSE)])),
  ...Object.fromEntries([0, 125, 126, 127, 128, 65_535, 65_536].map((size) => [`1.2 binary of ${size} bytes`, whole(binary(size), CLOSE)])),
  '1.3 binary of 65536 bytes in pieces of 997': [...chopped(binary(65_536), 997), CLOSE],
  '1.4 a frame byte by byte': [...chopped(text('byte by byte'), 1), CLOSE],
  '2.1 ping without payload': whole(frame(9), CLOSE),
  '2.2 ping with payload': whole(frame(9, 'Hello, world!'), CLOSE),
  '2.3 ping with binary payload': whole(frame(9, Buffer.from([0, 255, 254, 253])), CLOSE),
  '2.4 ping of 125 bytes': whole(frame(9, Buffer.alloc(125, 0xfe)), CLOSE),
  '2.5 ping of 126 bytes': whole(frame(9, Buffer.alloc(126, 0xfe))),
  '2.6 ping byte by byte': [...chopped(frame(9, Buffer.alloc(125, 0xfe)), 1), CLOSE],
  '2.7 pong that nobody asked for': whole(frame(10, 'unsolicited'), text('after'), CLOSE),
  '2.10 ten pings': whole(...Array.from({ length: 10 }, (_, i) => frame(9, `ping ${i}`)), CLOSE),
  ...Object.fromEntries([1, 2, 3, 4, 5, 6, 7].map((rsv) => [`3.${rsv} reserved bits ${rsv}`, whole(text('good'), text('bad', { rsv }))])),
  ...Object.fromEntries([3, 4, 5, 6, 7, 11, 12, 13, 14, 15].map((opcode) => [`4.${opcode} reserved opcode ${opcode}`, whole(text('good'), frame(opcode, 'bad'))])),
  '5.1 ping in two fragments': whole(frame(9, 'one', { fin: false }), frame(0, 'two')),
  '5.3 text in two fragments': whole(...fragments(1, ['one ', 'two']), CLOSE),
  '5.4 text in two fragments, apart': [...fragments(1, ['one ', 'two']), CLOSE],
  '5.6 ping between two fragments': whole(frame(1, 'one ', { fin: false }), frame(9, 'between'), frame(0, 'two'), CLOSE),
  '5.8 ping between two fragments, byte by byte': [...chopped(Buffer.concat([frame(1, 'one ', { fin: false }), frame(9, 'between'), frame(0, 'two')]), 1), CLOSE],
  '5.9 a continuation of nothing': whole(frame(0, 'lost')),
  '5.18 a new message in the middle of one': whole(frame(1, 'one ', { fin: false }), text('two')),
  '5.20 many fragments and pings': whole(...Array.from({ length: 40 }, (_, i) => [frame(i === 0 ? 1 : 0, `part ${i} `, { fin: false }), frame(9, `${i}`)]).flat(), frame(0, 'end'), CLOSE),
  '6.1 empty fragments': whole(...fragments(1, ['', '', '']), CLOSE),
  '6.2 UTF-8': whole(text(MIXED), CLOSE),
  '6.2 UTF-8 in fragments at every byte': whole(...fragments(1, [...Buffer.from(MIXED)].map((byte) => Buffer.from([byte]))), CLOSE),
  '6.3 bad UTF-8': whole(text(Buffer.from([0xce, 0xba, 0xe1, 0xbd, 0xb9, 0xed, 0xa0, 0x80, 0x65]))),
  '6.6 cut UTF-8': whole(text(Buffer.from([0xce]))),
  '6.21 surrogates': whole(text(Buffer.from([0xed, 0xa0, 0x80]))),
  ...Object.fromEntries([1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999].map((code) => [`7.7 close ${code}`, whole(text('last'), later(close(code, 'reason')))])),
  ...Object.fromEntries([0, 999, 1004, 1005, 1006, 1016, 1100, 2000, 2999, 5000, 65_535].map((code) => [`7.9 close ${code}, which nobody may send`, whole(close(code))])),
  '7.1 data after the close': whole(close(1000), text('too late')),
  '7.3 close without a code': whole(frame(8)),
  '7.3 close with half a code': whole(frame(8, Buffer.from([3]))),
  '7.3 close of 125 bytes': whole(close(1000, '*'.repeat(123))),
  '7.3 close of 126 bytes': whole(close(1000, '*'.repeat(124))),
  '7.5 close with bad UTF-8': whole(frame(8, Buffer.from([3, 0xe8, 0xce]))),
  '9.1 text of 1 MiB': whole(text('*'.repeat(1 << 20)), CLOSE),
  '9.2 binary of 8 MiB': whole(binary(8 << 20), CLOSE),
  '9.3 text of 4 MiB in fragments of 64 KiB': whole(...fragments(1, chopped(Buffer.alloc(4 << 20, '*'), 64 << 10)), CLOSE),
  '9.5 binary of 1 MiB in pieces of 1300': [...chopped(binary(1 << 20), 1300), CLOSE],
  '9.7 a thousand messages': whole(...Array.from({ length: 1000 }, (_, i) => text(`message ${i}`)), CLOSE),
  '10.1 65536 bytes in fragments of 1300': whole(...fragments(1, chopped(Buffer.alloc(65_536, '*'), 1300)), CLOSE),
};

/** With permessage-deflate agreed on. */
export const COMPRESSED = {
  '12.1 a small message': whole(frame(1, deflated('small'), { rsv: 4 }), CLOSE),
  '12.2 a message of 64 KiB': whole(frame(1, deflated('{"weather":"rain"}'.repeat(3641)), { rsv: 4 }), CLOSE),
  '12.3 one that is not compressed': whole(text('plain'), CLOSE),
  '12.4 in two fragments': whole(frame(1, deflated('x'.repeat(5000)).subarray(0, 5), { fin: false, rsv: 4 }), frame(0, deflated('x'.repeat(5000)).subarray(5)), CLOSE),
  '12.5 a bomb that is none': whole(frame(2, deflated(Buffer.alloc(4 << 20)), { rsv: 4 }), CLOSE),
  '12.6 no deflate data': whole(frame(1, Buffer.from([0xff, 0xff, 0xff]), { rsv: 4 })),
};
