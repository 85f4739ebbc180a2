package compattest

import (
	"bytes"
	"encoding/json"
	"flag"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sluicehq/sluice/internal/httpapi"
)

var update = flag.Bool("update", false, "write what is kept again")

// The API of today takes and answers all that its clients were promised.
func TestOpenAPI(t *testing.T) {
	path := filepath.Join("..", "..", "testdata", "openapi.v1.json")
	now, err := json.MarshalIndent(httpapi.New(t.Context(), httpapi.Config{Registry: http.NotFoundHandler()}).OpenAPI(), "", " ")
	if err != nil {
		t.Fatal(err)
	}
	now = append(now, '\n')
	kept, err := os.ReadFile(path)
	if err != nil && !*update {
		t.Fatal(err)
	}
	if err == nil {
		broken, err := Compare(kept, now)
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range broken {
			t.Errorf("breaks clients of the API: %s", b)
		}
		if len(broken) > 0 {
			t.Fatal("put it back; or, if nobody can use it yet, remove testdata/openapi.v1.json and run go generate ./internal/compattest")
		}
	}
	if *update {
		if err := os.WriteFile(path, now, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if !bytes.Equal(kept, now) {
		t.Error("the API has something new that testdata/openapi.v1.json lacks: run go generate ./internal/compattest, and review the difference")
	}
}

const small = `{
	"openapi": "3.1.0",
	"info": {"version": "1"},
	"security": [{"token": []}],
	"components": {"securitySchemes": {"token": {"type": "http"}}, "schemas": {
		"Ask": {"type": "object", "additionalProperties": false, "required": ["name"], "properties": {
			"name": {"type": "string", "minLength": 1, "maxLength": 10},
			"kind": {"type": "string", "enum": ["a", "b"]},
			"count": {"type": "number", "minimum": 1, "maximum": 9}}},
		"Answer": {"type": "object", "required": ["id", "next"], "properties": {
			"id": {"type": "string", "pattern": "^x"},
			"size": {"type": "integer", "format": "int64"},
			"more": {"type": ["array", "null"], "items": {"$ref": "#/components/schemas/Answer"}},
			"next": {"type": "object", "additionalProperties": {"type": "string"}}}}}},
	"paths": {"/things/{id}": {
		"get": {"operationId": "get", "parameters": [
				{"in": "path", "name": "id", "required": true, "schema": {"type": "string"}},
				{"in": "query", "name": "deep", "schema": {"type": "boolean"}}],
			"responses": {"200": {"description": "x", "headers": {"Etag": {"schema": {"type": "string"}}}, "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Answer"}}}}}},
		"post": {"operationId": "post", "requestBody": {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Ask"}}}},
			"responses": {"204": {"description": "x"}, "409": {"description": "x"}}}}}
}`

// Each kind of change is found, or let through, with its place named.
func TestCompare(t *testing.T) {
	for _, x := range []struct{ name, was, is, want string }{
		{"nothing", "", "", ""},
		{"path removed", `"/things/{id}"`, `"/stuff/{id}"`, "/things/{id}: the path was removed"},
		{"operation removed", `"post": {"operationId": "post"`, `"put": {"operationId": "post"`, "POST /things/{id}: the operation was removed"},
		{"operation renamed", `"operationId": "get"`, `"operationId": "read"`, `GET /things/{id}: operationId was "get" and is "read"`},
		{"parameter removed", `"name": "deep"`, `"name": "deeper"`, "GET /things/{id} query parameter deep: the parameter was removed"},
		{"parameter needed", `"name": "deep",`, `"name": "deep", "required": true,`, "GET /things/{id} query parameter deep: the parameter is required now"},
		{"new parameter needed", `{"in": "query",`, `{"in": "query", "name": "who", "required": true, "schema": {}}, {"in": "query",`, "GET /things/{id} query parameter who: the parameter is new and required"},
		{"new parameter", `{"in": "query",`, `{"in": "query", "name": "who", "schema": {}}, {"in": "query",`, ""},
		{"parameter of another type", `{"type": "boolean"}`, `{"type": "string"}`, `GET /things/{id} query parameter deep: the type was "boolean" and is "string"`},
		{"answer's status removed", `"204"`, `"201"`, "POST /things/{id} response 204: it is no longer answered"},
		{"answer's header removed", `"Etag"`, `"Tag"`, "GET /things/{id} response 200: header Etag was removed"},
		{"media type removed", `"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Ask"`, `"content": {"text/json": {"schema": {"$ref": "#/components/schemas/Ask"`, "POST /things/{id} request: application/json was removed"},
		{"body removed", `"requestBody"`, `"x-body"`, "POST /things/{id}: the request no longer takes a body"},
		{"body needed", `"requestBody": {`, `"requestBody": {"required": true, `, "POST /things/{id}: the request needs a body now"},
		{"field removed from an answer", `"size"`, `"bytes"`, "GET /things/{id} response 200 .size: the field was removed"},
		{"field removed from a request", `"kind"`, `"sort"`, "POST /things/{id} request .kind: the field was removed"},
		{"field of an answer not always there", `["id", "next"]`, `["next"]`, "GET /things/{id} response 200 .id: the field may be missing now"},
		{"field of an answer always there", `["id", "next"]`, `["id", "next", "size"]`, ""},
		{"field of a request needed", `"required": ["name"]`, `"required": ["name", "kind"]`, "POST /things/{id} request .kind: the field is required now"},
		{"field of a request not needed", `"required": ["name"]`, `"required": []`, ""},
		{"answer may be null", `"type": "integer"`, `"type": ["integer", "null"]`, `GET /things/{id} response 200 .size: the type was "integer" and is ["integer","null"]`},
		{"answer never null", `["array", "null"]`, `"array"`, ""},
		{"answer's type widened", `"type": "integer"`, `"type": "number"`, `GET /things/{id} response 200 .size: the type was "integer" and is "number"`},
		{"request's type narrowed", `"count": {"type": "number"`, `"count": {"type": "integer"`, `POST /things/{id} request .count: the type was "number" and is "integer"`},
		{"request's type widened", `"count": {"type": "number"`, `"count": {"type": ["number", "null"]`, ""},
		{"type forgotten in an answer", `"id": {"type": "string", `, `"id": {`, `GET /things/{id} response 200 .id: the type was "string" and is not set`},
		{"enum narrowed", `["a", "b"]`, `["a"]`, `POST /things/{id} request .kind: the value "b" was removed`},
		{"enum widened", `["a", "b"]`, `["a", "b", "c"]`, ""},
		{"enum new", `"name": {"type": "string", `, `"name": {"type": "string", "enum": ["x"], `, `POST /things/{id} request .name: only the values ["x"] are taken now`},
		{"upper bound narrowed", `"maximum": 9`, `"maximum": 8`, "POST /things/{id} request .count: maximum was 9 and is 8"},
		{"upper bound new", `"kind": {`, `"kind": {"maxLength": 5, `, "POST /things/{id} request .kind: maxLength was not set and is 5"},
		{"upper bound widened", `"maximum": 9`, `"maximum": 10`, ""},
		{"lower bound narrowed", `"minLength": 1`, `"minLength": 2`, "POST /things/{id} request .name: minLength was 1 and is 2"},
		{"lower bound gone", `"minLength": 1, `, ``, ""},
		{"pattern new", `"name": {`, `"name": {"pattern": "^y", `, `POST /things/{id} request .name: pattern was not set and is "^y"`},
		{"pattern of an answer gone", `, "pattern": "^x"`, ``, `GET /things/{id} response 200 .id: pattern was "^x" and is not set`},
		{"format changed", `"int64"`, `"int32"`, `GET /things/{id} response 200 .size: format was "int64" and is "int32"`},
		{"items changed", `"items": {"$ref": "#/components/schemas/Answer"}`, `"items": {"type": "string"}`, `GET /things/{id} response 200 .more[]: the type was "object" and is "string"`},
		{"values changed", `"additionalProperties": {"type": "string"}`, `"additionalProperties": {"type": "number"}`, `GET /things/{id} response 200 .next .*: the type was "string" and is "number"`},
		{"values forgotten", `"additionalProperties": {"type": "string"}`, `"additionalProperties": true`, `GET /things/{id} response 200 .next: further fields were {"type":"string"} and are true`},
		{"unknown rule", `"id": {"type": "string", `, `"id": {"type": "string", "contentEncoding": "base64", `, `GET /things/{id} response 200 .id: contentEncoding was not set and is "base64"`},
		{"other security", `[{"token": []}]`, `[{"key": []}]`, `the document: security was [{"token":[]}] and is [{"key":[]}]`},
		{"words", `"description": "x", "headers"`, `"description": "y", "headers"`, ""},
		{"new operation", `"get": {`, `"delete": {"operationId": "delete"}, "get": {`, ""},
		{"new field", `"id": {`, `"also": {"type": "string"}, "id": {`, ""},
		{"schema renamed", `schemas/Answer"`, `schemas/Reply"`, "GET /things/{id} response 200"},
	} {
		t.Run(x.name, func(t *testing.T) {
			now := small
			if x.was != "" {
				if !strings.Contains(small, x.was) {
					t.Fatalf("%s is not in the document", x.was)
				}
				now = strings.Replace(small, x.was, x.is, 1)
			}
			got, err := Compare([]byte(small), []byte(now))
			if err != nil {
				t.Fatal(err)
			}
			if all := strings.Join(got, "\n"); x.want == "" && len(got) > 0 || !strings.Contains(all, x.want) {
				t.Errorf("found:\n%s\nwant: %s", all, x.want)
			}
		})
	}
}

func FuzzCompare(f *testing.F) {
	f.Add(small, small)
	f.Add(small, `{"paths": {"/things/{id}": {"get": []}}}`)
	f.Add(`{"paths": {"a": 1}, "components": {"schemas": {"A": {"$ref": "#/components/schemas/A"}}}}`, `null`)
	f.Fuzz(func(t *testing.T, kept, now string) {
		_, _ = Compare([]byte(kept), []byte(now))
		if found, err := Compare([]byte(kept), []byte(kept)); err == nil && len(found) > 0 {
			t.Errorf("a document breaks its own clients: %q", found)
		}
	})
}
