// A service that registers itself with Nacos by its client for Node.js, and a client that follows one.
//
// `server -with-stdin ADDRESS NAME PORT`: answers with its port, and leaves the registry on SIGTERM.
//
// `client -with-stdin ADDRESS NAME`: writes a line of JSON whenever something else is found: the addresses of all
// instances, and what those answered that answered. Both end with their standard input.

import http from 'node:http';
import naming from 'nacos-naming';

const [role, , serverList, name, port] = process.argv.slice(2);
process.stdin.on('end', () => process.exit(0)).resume();

const logger = { debug() {}, info() {}, log() {}, warn: console.error, error: console.error };
const client = new naming.NacosNamingClient({ logger, serverList, namespace: 'public' });
await client.ready();

if (role === 'server') {
  const server = http.createServer((request, response) => response.end(port));
  await new Promise((resolve) => server.listen(Number(port), '127.0.0.1', resolve));
  const instance = { ip: '127.0.0.1', port: Number(port), weight: 2, metadata: { version: '2' } };
  await client.registerInstance(name, instance);
  process.on('SIGTERM', async () => {
    await client.deregisterInstance(name, instance);
    // Requests that others have begun are answered.
    setTimeout(() => server.close(() => process.exit(0)), 3000);
  });
} else {
  let last = '';
  for (;;) {
    const hosts = await client.getAllInstances(name, 'DEFAULT_GROUP', '', false);
    const instances = hosts.map(({ ip, port }) => `${ip}:${port}`).sort();
    const asked = instances.map((address) => fetch(`http://${address}/`).then((answer) => answer.text()));
    const answers = (await Promise.allSettled(asked)).flatMap(({ value }) => value ?? []);
    const report = JSON.stringify({ done: false, instances, answers });
    if (report !== last) {
      console.log((last = report));
    }
    await new Promise((resolve) => setTimeout(resolve, 200));
  }
}
