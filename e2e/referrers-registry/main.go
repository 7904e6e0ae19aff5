// A registry that knows the referrers API, which Debian's docker-registry does not. It keeps
// everything in memory.
package main

import (
	"log"
	"net/http"
	"os"
	"time"

	"cuelabs.dev/go/oci/ociregistry/ocimem"
	"cuelabs.dev/go/oci/ociregistry/ociserver"
)

func main() {
	if len(os.Args) != 2 {
		log.Fatal("usage: referrers-registry ADDRESS:PORT")
	}
	server := &http.Server{
		Addr:              os.Args[1],
		Handler:           ociserver.New(ocimem.New(), nil),
		ReadHeaderTimeout: 5 * time.Second,
	}
	log.Fatal(server.ListenAndServe())
}
