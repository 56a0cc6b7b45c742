// Files serves a folder over HTTP, with ranges, as any host of models would. It logs each request.
//
//	files [-address :8080] FOLDER
package main

import (
	"flag"
	"log"
	"net/http"
	"os"
)

func main() {
	address := flag.String("address", ":8080", "where it listens")
	flag.Parse()
	if flag.NArg() != 1 {
		flag.Usage()
		os.Exit(2)
	}
	log.SetOutput(os.Stdout)
	files := http.FileServer(http.Dir(flag.Arg(0)))
	log.Fatal(http.ListenAndServe(*address, http.HandlerFunc(func(answer http.ResponseWriter, request *http.Request) {
		log.Printf("%s %s %s", request.RemoteAddr, request.Method, request.URL.Path)
		files.ServeHTTP(answer, request)
	})))
}
