// Calls every method of images and models of the openai package for Node, and prints what came of it.
//
//     node openai.mjs BASE_URL API_KEY MODEL PICTURE
import fs from "node:fs";

import OpenAI, { toFile } from "openai";

const [baseURL, apiKey, model, picture] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey });
const said = {};

const image = () => toFile(fs.createReadStream(picture), "photo.png", { type: "image/png" });

async function failure(promise) {
  try {
    await promise;
  } catch (error) {
    const { status, code, type, param, requestID } = error;
    return { name: error.constructor.name, status, code, type, param, request: Boolean(requestID) };
  }
  return null;
}

const drawn = await client.images.generate({ model, prompt: "a red circle", size: "64x64" });
said.url = drawn.data[0].url;
const inline = await client.images.generate({
  model,
  prompt: "a red circle",
  size: "64x64",
  response_format: "b64_json",
});
said.base64 = inline.data[0].b64_json;
const stream = await client.images.generate({
  model,
  prompt: "a red circle",
  size: "64x64",
  stream: true,
  partial_images: 2,
});
said.events = [];
for await (const event of stream) said.events.push(event.type);
const edited = await client.images.edit({ model, prompt: "a red circle", image: await image() });
said.edited = edited.size;
said.several = await failure(
  client.images.edit({ model, prompt: "a", image: [await image(), await image()] }),
);
const varied = await client.images.createVariation({ model, image: await image() });
said.varied = varied.data.length;
const listed = [];
for await (const one of client.models.list()) listed.push(one.id);
said.listed = listed.includes(model);
said.retrieved = (await client.models.retrieve(model)).id;
said.missing = await failure(client.models.retrieve("no/body"));
said.wrong = await failure(client.images.generate({ model, prompt: "a", size: "big" }));
said.deleted = await failure(client.models.delete(model));
console.log(JSON.stringify(said));
