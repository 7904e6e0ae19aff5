// Writes the JSON schemas that kubeconform reads, from the OpenAPI document of one Kubernetes version:
//
//	go run scripts/kubeconform-schemas.go SWAGGER.json DIRECTORY
//
// One file per kind, KIND-GROUP-VERSION.json, each complete in itself. They are strict: a field that the version does not have is
// an error. kubeconform would fetch such files from the internet, which the machines that test this do not reach.
package main

import (
	"encoding/json"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"strings"
)

const refPrefix = "#/definitions/"

type schema = map[string]any

func main() {
	log.SetFlags(0)
	if len(os.Args) != 3 {
		log.Fatal("usage: kubeconform-schemas SWAGGER.json DIRECTORY")
	}
	text, err := os.ReadFile(os.Args[1])
	check(err)
	var document struct {
		Definitions map[string]schema `json:"definitions"`
	}
	check(json.Unmarshal(text, &document))
	for _, definition := range document.Definitions {
		harden(definition)
	}
	check(os.MkdirAll(os.Args[2], 0o755))
	for name, definition := range document.Definitions {
		kinds, _ := definition["x-kubernetes-group-version-kind"].([]any)
		if len(kinds) != 1 { // DeleteOptions and the like belong to every group
			continue
		}
		write(filepath.Join(os.Args[2], fileName(kinds[0].(schema))), name, document.Definitions)
	}
}

// fileName is kubeconform's {{.ResourceKind}}{{.KindSuffix}}.json.
func fileName(kind schema) string {
	group, _, _ := strings.Cut(kind["group"].(string), ".")
	if group != "" {
		group += "-"
	}
	return strings.ToLower(fmt.Sprintf("%s-%s%s.json", kind["kind"], group, kind["version"]))
}

// harden makes a definition say what the API server accepts: no unknown fields, and numbers where they are as good as strings.
func harden(value any) {
	switch value := value.(type) {
	case []any:
		for _, element := range value {
			harden(element)
		}
	case schema:
		delete(value, "description")
		if format := value["format"]; format == "int-or-string" {
			delete(value, "format")
			value["type"] = []any{"string", "integer"}
		}
		if properties, ok := value["properties"].(schema); ok {
			if _, ok := value["additionalProperties"]; !ok {
				value["additionalProperties"] = false
			}
			for _, property := range properties { // a property may be called "description", too
				harden(property)
			}
		}
		for _, key := range []string{"items", "additionalProperties", "allOf"} {
			harden(value[key])
		}
	}
}

// write puts one definition and all that it refers to into a file.
func write(path, name string, definitions map[string]schema) {
	used := map[string]schema{}
	collect(schema{"$ref": refPrefix + name}, definitions, used)
	if quantity, ok := used["io.k8s.apimachinery.pkg.api.resource.Quantity"]; ok {
		quantity["type"] = []any{"string", "number"}
	}
	text, err := json.Marshal(schema{
		"$schema":     "http://json-schema.org/draft-07/schema#",
		"allOf":       []any{schema{"$ref": refPrefix + name}},
		"definitions": used,
	})
	check(err)
	check(os.WriteFile(path, text, 0o644))
}

func collect(value any, definitions, used map[string]schema) {
	switch value := value.(type) {
	case []any:
		for _, element := range value {
			collect(element, definitions, used)
		}
	case schema:
		if ref, ok := value["$ref"].(string); ok {
			name := strings.TrimPrefix(ref, refPrefix)
			if _, seen := used[name]; !seen {
				used[name] = definitions[name]
				collect(definitions[name], definitions, used)
			}
		}
		for _, element := range value {
			collect(element, definitions, used)
		}
	}
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
