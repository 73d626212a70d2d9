// js-libp2p dials a node, identifies it and pings it: `node dial.mjs MULTIADDRESS`. Prints JSON.
import { noise } from '@chainsafe/libp2p-noise'
import { yamux } from '@chainsafe/libp2p-yamux'
import { identify } from '@libp2p/identify'
import { ping } from '@libp2p/ping'
import { tcp } from '@libp2p/tcp'
import { multiaddr } from '@multiformats/multiaddr'
import { createLibp2p } from 'libp2p'

const address = multiaddr(process.argv[2])
const node = await createLibp2p({
  transports: [tcp()],
  connectionEncrypters: [noise()],
  streamMuxers: [yamux()],
  services: { identify: identify(), ping: ping() },
})
const identified = new Promise((resolve) => node.addEventListener('peer:identify', resolve))
const connection = await node.dial(address)
const { detail } = await identified
const pings = []
for (let count = 0; count < 3; count++) pings.push(await node.services.ping.ping(address))
console.log(
  JSON.stringify({
    peer: connection.remotePeer.toString(),
    encryption: connection.encryption,
    multiplexer: connection.multiplexer,
    protocols: detail.protocols,
    listenAddresses: detail.listenAddrs.map(String),
    pings,
  }),
)
await node.stop()
