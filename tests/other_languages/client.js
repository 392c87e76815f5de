// A client made of the protos alone: pushes a blob in pieces, publishes a version, lists, resolves, and reads it back.
// node client.js PROTOS HOST:PORT FOLDER, with LORRY_TOKEN; prints one JSON object.
const crypto = require("node:crypto");
const fs = require("node:fs");
const path = require("node:path");
const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");

const [protos, address, folder] = process.argv.slice(2);
const PIECE = 1000;

const definition = loader.loadSync(
  ["registry_service", "blob_service", "access_service"].map((name) => `lorry/registry/v1/${name}.proto`),
  { includeDirs: [protos], longs: Number, defaults: true, keepCase: true },
);
const v1 = grpc.loadPackageDefinition(definition).lorry.registry.v1;
const insecure = grpc.credentials.createInsecure();
const registry = new v1.RegistryService(address, insecure);
const blobs = new v1.BlobService(address, insecure);
const access = new v1.AccessService(address, insecure);

const metadata = new grpc.Metadata();
metadata.set("authorization", `Bearer ${process.env.LORRY_TOKEN}`);

function ask(client, method, request) {
  return new Promise((resolve, reject) => {
    client[method](request, metadata, { deadline: Date.now() + 20000 }, (error, answer) =>
      error ? reject(error) : resolve(answer),
    );
  });
}

function write(digest, data) {
  return new Promise((resolve, reject) => {
    const stream = blobs.WriteBlob(metadata, (error, answer) => (error ? reject(error) : resolve(answer)));
    stream.on("error", reject);
    for (let at = 0; at < data.length; at += PIECE) {
      stream.write({
        digest: at === 0 ? digest : "",
        size_bytes: at === 0 ? data.length : 0,
        write_offset: at,
        data: data.subarray(at, at + PIECE),
        finish_write: at + PIECE >= data.length,
      });
    }
    stream.end();
  });
}

async function read(digest) {
  const pieces = [];
  for await (const message of blobs.ReadBlob({ digest }, metadata)) pieces.push(message.data);
  return Buffer.concat(pieces);
}

async function main() {
  const caller = await ask(access, "GetCaller", {});
  const files = [];
  for (const name of fs.readdirSync(folder).sort()) {
    const data = fs.readFileSync(path.join(folder, name));
    const digest = `sha256:${crypto.createHash("sha256").update(data).digest("hex")}`;
    const { missing } = await ask(blobs, "FindMissingBlobs", { digests: [digest] });
    if (missing.length && !(await write(digest, data)).complete) throw new Error(`${name} is not complete`);
    if (!(await read(digest)).equals(data)) throw new Error(`${name} came back changed`);
    files.push({ path: name, digest, size_bytes: data.length });
  }
  await ask(registry, "CreateAdapter", { parent: "namespaces/node", adapter_id: "support" });
  const parent = "namespaces/node/adapters/support";
  const published = await ask(registry, "CreateVersion", { parent, version: { files } });
  const resolved = await ask(registry, "ResolveReference", { reference: "node/support" });
  const { adapters } = await ask(registry, "ListAdapters", { parent: "namespaces/-" });
  let refused = "";
  try {
    await ask(registry, "GetAdapter", { name: "namespaces/theirs/adapters/secret" });
  } catch (error) {
    refused = grpc.status[error.code];
  }
  console.log(
    JSON.stringify({
      principal: caller.principal,
      digest: published.digest,
      same: resolved.digest === published.digest,
      adapters: adapters.map((adapter) => adapter.name),
      refused,
    }),
  );
}

main().then(
  () => process.exit(0),
  (error) => {
    console.error(error);
    process.exit(1);
  },
);
