// Analyses one picture over AnalyzeStream in 64 KiB chunks and prints its events, one JSON object a line.
// Usage: node analyze.js PROTO_DIR[:PROTO_DIR...] ADDRESS PICTURE
const crypto = require("crypto");
const fs = require("fs");
const path = require("path");
const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");

const [protoDirs, address, picture] = process.argv.slice(2);
const definition = loader.loadSync("maifs/coordinator/v1/coordinator.proto", {
  includeDirs: protoDirs.split(":"),
  keepCase: true,
  enums: String,
  longs: Number,
  oneofs: true,
});
const { CoordinatorService } = grpc.loadPackageDefinition(definition).maifs.coordinator.v1;
const client = new CoordinatorService(address, grpc.credentials.createInsecure(), {
  "grpc.max_receive_message_length": 16 * 1024 * 1024,
});

const data = fs.readFileSync(picture);
const call = client.AnalyzeStream();
call.on("data", ({ item_id, event }) => {
  const kind = event.event;
  const line = { item_id, kind };
  if (kind === "report") Object.assign(line, { verdict: event.report.verdict, tools: event.report.tool_results.length });
  if (kind === "error") line.message = event.error.message;
  console.log(JSON.stringify(line));
});
call.on("error", (error) => {
  console.error(error.message);
  process.exit(1);
});

const item_id = "picture-1";
const begin = {
  size_bytes: data.length,
  sha256: crypto.createHash("sha256").update(data).digest(),
  file_name: path.basename(picture),
};
call.write({ item_id, begin, options: { skip_llm: true } });
for (let offset = 0; offset < data.length; offset += 65536) {
  call.write({ item_id, chunk: { offset_bytes: offset, data: data.subarray(offset, offset + 65536) } });
}
call.write({ item_id, end: {} });
call.end();
