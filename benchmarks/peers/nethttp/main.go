// The next number by Go's own HTTP server: nethttp PORT
package main

import (
	"log"
	"net/http"
	"os"
	"strconv"
	"sync/atomic"
)

func main() {
	var id atomic.Int64
	mux := http.NewServeMux()
	mux.HandleFunc("GET /api/segment/get/{tag}", func(w http.ResponseWriter, r *http.Request) {
		if r.PathValue("tag") == "" {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Type", "text/plain")
		_, _ = w.Write(strconv.AppendInt(nil, id.Add(1), 10))
	})
	log.Fatal(http.ListenAndServe("127.0.0.1:"+os.Args[1], mux))
}
